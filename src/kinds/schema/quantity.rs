//! Quantities: numbers with a suffix, as `500m`, `1Gi`, `2e3`.
//!
//! Upstream reads a quantity into a number and remembers only which family its suffix was of; what it
//! writes back is canonical: the largest suffix that leaves a whole number. Clients compare the text,
//! so the rounding (up, to nano) and the limit (the largest 64-bit integer) are upstream's too.

use std::fmt;

/// Which suffixes a quantity is written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    DecimalSi,
    BinarySi,
    DecimalExponent,
}

/// A parsed quantity. Its value is exact to a billionth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantity {
    nanos: i128,
    pub format: Format,
}

/// Why a text is not a quantity; the texts are upstream's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const NANO: i128 = 1_000_000_000;
const LIMIT: i128 = i64::MAX as i128 * NANO;

impl Quantity {
    pub const ZERO: Self = Self { nanos: 0, format: Format::DecimalSi };

    /// A quantity of billionths.
    pub fn from_nanos(nanos: i128, format: Format) -> Self {
        Self { nanos: nanos.clamp(-LIMIT, LIMIT), format }
    }

    pub fn nanos(self) -> i128 {
        self.nanos
    }

    /// The value in thousandths, rounded up: CPU in millicores.
    pub fn milli(self) -> i64 {
        i64::try_from(divide_up(self.nanos, NANO / 1000)).unwrap_or(if self.nanos < 0 { i64::MIN } else { i64::MAX })
    }

    /// The value as a whole number, rounded up: bytes.
    pub fn value(self) -> i64 {
        i64::try_from(divide_up(self.nanos, NANO)).unwrap_or(if self.nanos < 0 { i64::MIN } else { i64::MAX })
    }
}

/// Reads a quantity.
pub fn parse(text: &str) -> Result<Quantity, QuantityError> {
    let (negative, rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(number_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if number.is_empty() || fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return Err(QuantityError::Format);
    }
    check_suffix_letters(suffix)?;
    let (format, base, exponent) = read_suffix(suffix)?;
    let nanos = scale(whole, fraction, base, exponent);
    Ok(Quantity::from_nanos(if negative { -nanos } else { nanos }, format))
}

/// What upstream's regular expression allows after the number.
fn check_suffix_letters(suffix: &str) -> Result<(), QuantityError> {
    let rest = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let digits = rest.strip_prefix(['+', '-']).unwrap_or(rest);
    if digits.bytes().all(|b| b.is_ascii_digit()) { Ok(()) } else { Err(QuantityError::Format) }
}

/// The family, the base and its exponent.
fn read_suffix(suffix: &str) -> Result<(Format, u32, i32), QuantityError> {
    use Format::{BinarySi, DecimalExponent, DecimalSi};
    Ok(match suffix {
        "n" => (DecimalSi, 10, -9),
        "u" => (DecimalSi, 10, -6),
        "m" => (DecimalSi, 10, -3),
        "" => (DecimalSi, 10, 0),
        "k" => (DecimalSi, 10, 3),
        "M" => (DecimalSi, 10, 6),
        "G" => (DecimalSi, 10, 9),
        "T" => (DecimalSi, 10, 12),
        "P" => (DecimalSi, 10, 15),
        "E" => (DecimalSi, 10, 18),
        "Ki" => (BinarySi, 2, 10),
        "Mi" => (BinarySi, 2, 20),
        "Gi" => (BinarySi, 2, 30),
        "Ti" => (BinarySi, 2, 40),
        "Pi" => (BinarySi, 2, 50),
        "Ei" => (BinarySi, 2, 60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
            (DecimalExponent, 10, exponent.parse().map_err(|_| QuantityError::Suffix)?)
        }
    })
}

/// `whole.fraction × base^exponent` in billionths, rounded up; saturates at the limit.
fn scale(whole: &str, fraction: &str, base: u32, exponent: i32) -> i128 {
    let fraction = fraction.trim_end_matches('0');
    let digits = format!("{}{fraction}", whole.trim_start_matches('0'));
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return 0;
    }
    let fraction_len = i32::try_from(fraction.len()).unwrap_or(i32::MAX);
    let (ten, two) = if base == 10 { (exponent.saturating_sub(fraction_len), 0) } else { (-fraction_len, exponent) };
    let ten = ten.saturating_add(9);
    // Past these bounds the answer is the limit, or a number so small that it rounds up to a billionth.
    let magnitude = i32::try_from(digits.len()).unwrap_or(i32::MAX).saturating_add(ten);
    if magnitude > 40 {
        return LIMIT;
    }
    if magnitude < -30 {
        return 1;
    }
    // 30 digits hold every value below the limit; what is cut off can only round up.
    let kept = &digits[..digits.len().min(30)];
    let cut = i32::try_from(digits.len() - kept.len()).unwrap_or(i32::MAX);
    let mut value: i128 = kept.parse().unwrap_or(LIMIT);
    let inexact = digits[kept.len()..].bytes().any(|b| b != b'0');
    let ten = ten.saturating_add(cut);
    if two > 0 {
        value = value.checked_mul(1i128 << two).unwrap_or(LIMIT);
    }
    let power = 10i128.checked_pow(ten.unsigned_abs());
    let scaled = match (power, ten >= 0) {
        (Some(power), true) => value.checked_mul(power).unwrap_or(LIMIT),
        (Some(power), false) => divide_up(value, power),
        (None, true) => LIMIT,
        (None, false) => 1,
    };
    (scaled + i128::from(inexact && ten >= 0)).min(LIMIT)
}

/// Division that rounds away from zero, as upstream rounds quantities.
fn divide_up(value: i128, by: i128) -> i128 {
    let quotient = value / by;
    match value % by {
        0 => quotient,
        rest if rest > 0 => quotient + 1,
        _ => quotient - 1,
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let small = self.nanos.abs() < 1024 * NANO;
        if self.format == Format::BinarySi && !small && self.nanos % NANO == 0 {
            let (number, power) = factor(self.nanos / NANO, 1024, 6);
            return write!(f, "{number}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power]);
        }
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let (number, power) = factor(self.nanos, 1000, 9);
        match self.format {
            Format::DecimalExponent if power != 3 => write!(f, "{number}e{}", (power as i32 - 3) * 3),
            Format::DecimalExponent => write!(f, "{number}"),
            _ => write!(f, "{number}{}", ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][power]),
        }
    }
}

/// Takes out `by` as often as it goes without a rest, at most `most` times.
fn factor(mut value: i128, by: i128, most: usize) -> (i128, usize) {
    let mut power = 0;
    while power < most && value != 0 && value % by == 0 {
        value /= by;
        power += 1;
    }
    (value, power)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn canonical_form() {
        for (text, canonical) in [
            ("1000m", "1"),
            ("1", "1"),
            ("0", "0"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1.", "1"),
            ("100m", "100m"),
            ("1500m", "1500m"),
            ("1024Ki", "1Mi"),
            ("1Gi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("512", "512"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("64Mi", "64Mi"),
            ("0.1Mi", "104857600m"),
            ("2Ki", "2Ki"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e0", "12"),
            ("1E", "1E"),
            ("-100m", "-100m"),
            ("+5", "5"),
            ("0.0000000001", "1n"),
            ("99999999999999999999", "9223372036854775807"),
            ("100Ei", "9223372036854775807"),
            ("1e-3", "1e-3"),
        ] {
            assert_eq!(parse(text).map(|q| q.to_string()), Ok(canonical.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity() {
        for text in ["", "abc", "-", "1.2.3", "1 Gi", ".", "1Gx", "true", "1e", "1ki", "1Kim", "１"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn canonical_is_a_fixed_point(text in "[+-]?[0-9]{0,25}(\\.[0-9]{0,15})?(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|e[0-9]{1,3}|e-[0-9]{1,3})?") {
            if let Ok(quantity) = parse(&text) {
                let canonical = quantity.to_string();
                let again = parse(&canonical).unwrap();
                prop_assert_eq!(again.nanos, quantity.nanos);
                prop_assert_eq!(again.to_string(), canonical);
            }
        }

        #[test]
        fn any_text_is_safe(text in ".{0,40}") {
            let _ = parse(&text);
        }
    }
}
