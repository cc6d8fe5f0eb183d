//! Quantities of resources: `500m`, `1Gi`, `1e3`.
//!
//! A quantity is kept exactly, as a count of billionths (upstream keeps no finer part and rounds up
//! to it), together with the notation it was written in, because the canonical form depends on it:
//! `1024Mi` is `1Gi`, while `1024M` stays decimal. Nothing here is a float.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde_json::Value;

/// What upstream says of text that is no quantity.
pub const FORMAT_MESSAGE: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

const NANO_PER_UNIT: i128 = 1_000_000_000;
const NANO_PER_MILLI: i128 = 1_000_000;
/// Upstream caps what is larger at the largest 64-bit integer.
const MAX_NANOS: i128 = i64::MAX as i128 * NANO_PER_UNIT;
/// More digits than any representable value has; the rest cannot matter, and it bounds the work.
const MAX_DIGITS: usize = 60;

/// The notation a quantity was written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Notation {
    /// `1e3`.
    Exponent,
    /// `1Ki`.
    Binary,
    /// `1k`, or no suffix.
    Decimal,
}

/// An exact amount of a resource. Equality and order are of the amount, not of the notation.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    notation: Notation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{FORMAT_MESSAGE}")]
pub struct ParseQuantityError;

impl Quantity {
    pub const ZERO: Self = Self { nanos: 0, notation: Notation::Decimal };

    /// Whole units in decimal notation.
    pub fn from_units(units: i64) -> Self {
        Self { nanos: i128::from(units) * NANO_PER_UNIT, notation: Notation::Decimal }
    }

    /// Thousandths in decimal notation: CPU shares.
    pub fn from_millis(millis: i64) -> Self {
        Self { nanos: i128::from(millis) * NANO_PER_MILLI, notation: Notation::Decimal }
    }

    /// Bytes, to be shown with binary suffixes.
    pub fn from_bytes(bytes: i64) -> Self {
        Self { nanos: i128::from(bytes) * NANO_PER_UNIT, notation: Notation::Binary }
    }

    /// Reads a JSON string, or a JSON number as upstream does.
    pub fn from_json(value: &Value) -> Result<Self, ParseQuantityError> {
        match value {
            Value::String(text) => text.trim().parse(),
            Value::Number(number) => number.to_string().parse(),
            _ => Err(ParseQuantityError),
        }
    }

    /// The entry `name` of a ResourceList; zero where absent or unreadable.
    pub fn of(list: &Value, name: &str) -> Self {
        list.get(name).and_then(|value| Self::from_json(value).ok()).unwrap_or(Self::ZERO)
    }

    /// Whole units, rounded up, as limits and requests are.
    pub fn units(self) -> i64 {
        clamp(div_up(self.nanos, NANO_PER_UNIT))
    }

    /// Thousandths, rounded up.
    pub fn millis(self) -> i64 {
        clamp(div_up(self.nanos, NANO_PER_MILLI))
    }

    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Whether it counts whole units.
    pub fn is_integer(self) -> bool {
        self.nanos % NANO_PER_UNIT == 0
    }

    /// The sum, in the notation of `self` unless that is zero.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let notation = if self.is_zero() { other.notation } else { self.notation };
        Self { nanos: (self.nanos + other.nanos).clamp(-MAX_NANOS, MAX_NANOS), notation }
    }

    /// The difference, in the notation of `self` unless that is zero.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        self.plus(Self { nanos: -other.nanos, ..other })
    }

    /// Rounded up to whole thousandths, as upstream stores resource lists.
    #[must_use]
    pub fn rounded_to_millis(self) -> Self {
        Self { nanos: div_up(self.nanos, NANO_PER_MILLI) * NANO_PER_MILLI, ..self }
    }

    fn parse(text: &str) -> Option<Self> {
        let (negative, unsigned) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return None;
        }
        let (notation, base, exponent) = scale(suffix)?;
        let magnitude = magnitude(whole, fraction, base, exponent);
        Some(Self { nanos: if negative { -magnitude } else { magnitude }, notation })
    }
}

/// The notation, base (2 or 10) and exponent that a suffix stands for.
fn scale(suffix: &str) -> Option<(Notation, u32, i32)> {
    let decimal = |exponent| Some((Notation::Decimal, 10, exponent));
    let binary = |exponent| Some((Notation::Binary, 2, exponent));
    match suffix {
        "" => decimal(0),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let digits = suffix.strip_prefix(['e', 'E'])?;
            let bare = digits.strip_prefix(['+', '-']).unwrap_or(digits);
            if bare.is_empty() || !bare.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            // Beyond ±100 the value is the cap or the smallest step anyway.
            let exponent: i64 = digits.trim_start_matches('+').parse().unwrap_or(i64::MAX);
            Some((Notation::Exponent, 10, exponent.clamp(-100, 100) as i32))
        }
    }
}

/// `whole.fraction × base^exponent` in billionths, rounded up and capped.
fn magnitude(whole: &str, fraction: &str, base: u32, exponent: i32) -> i128 {
    let whole = whole.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    if whole.is_empty() && fraction.is_empty() {
        return 0;
    }
    if whole.len() > 19 + if base == 10 { (-exponent).max(0) as usize } else { 0 } {
        return MAX_NANOS;
    }
    let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|b| b - b'0').collect();
    let mut point = whole.len() as i64 + 9;
    if base == 10 {
        point += i64::from(exponent);
    } else {
        digits = shifted_left(&digits, exponent as u32, &mut point);
    }
    take_integer(&digits, point)
}

/// The decimal digits of `digits × 2^bits`; `point` moves by the digits that it grew.
fn shifted_left(digits: &[u8], bits: u32, point: &mut i64) -> Vec<u8> {
    let factor = 1u128 << bits;
    let mut result = Vec::with_capacity(digits.len() + 20);
    let mut carry = 0u128;
    for digit in digits.iter().rev() {
        let sum = u128::from(*digit) * factor + carry;
        result.push((sum % 10) as u8);
        carry = sum / 10;
    }
    while carry > 0 {
        result.push((carry % 10) as u8);
        carry /= 10;
    }
    result.reverse();
    *point += result.len() as i64 - digits.len() as i64;
    result
}

/// The integer that stands before `point` in a row of digits, plus one if anything follows.
fn take_integer(digits: &[u8], point: i64) -> i128 {
    let zeros = digits.iter().take_while(|d| **d == 0).count();
    let (digits, point) = (&digits[zeros..], point - zeros as i64);
    if digits.is_empty() {
        return 0;
    }
    if point > MAX_DIGITS as i64 {
        return MAX_NANOS;
    }
    let mut value: i128 = 0;
    for i in 0..point.max(0) as usize {
        value = value * 10 + i128::from(digits.get(i).copied().unwrap_or(0));
        if value > MAX_NANOS {
            return MAX_NANOS;
        }
    }
    let rest = digits.iter().skip(point.max(0) as usize).any(|d| *d != 0);
    (value + i128::from(rest)).min(MAX_NANOS)
}

/// Division that rounds away from zero.
fn div_up(value: i128, by: i128) -> i128 {
    let quotient = value / by;
    if value % by == 0 { quotient } else { quotient + value.signum() }
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

impl FromStr for Quantity {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text).ok_or(ParseQuantityError)
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: the largest suffix that leaves an integer.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let units = self.nanos / NANO_PER_UNIT;
        if self.notation == Notation::Binary && self.is_integer() && units.abs() >= 1024 {
            return write_binary(f, units);
        }
        write_decimal(f, self.nanos, self.notation == Notation::Exponent)
    }
}

fn write_binary(f: &mut fmt::Formatter<'_>, mut units: i128) -> fmt::Result {
    const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut i = 0;
    while units % 1024 == 0 && i + 1 < SUFFIXES.len() {
        units /= 1024;
        i += 1;
    }
    write!(f, "{units}{}", SUFFIXES[i])
}

fn write_decimal(f: &mut fmt::Formatter<'_>, mut value: i128, exponent_form: bool) -> fmt::Result {
    const SUFFIXES: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
    let mut i = 0;
    while value % 1000 == 0 && i + 1 < SUFFIXES.len() {
        value /= 1000;
        i += 1;
    }
    match (exponent_form, 3 * i as i32 - 9) {
        (true, 0) => write!(f, "{value}"),
        (true, exponent) => write!(f, "{value}e{exponent}"),
        (false, _) => write!(f, "{value}{}", SUFFIXES[i]),
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

/// Brings every quantity of a ResourceList into the form that upstream stores: rounded up to
/// thousandths, canonical. What is no quantity stays for validation to refuse.
pub fn normalize_list(list: &mut Value) {
    let Some(entries) = list.as_object_mut() else { return };
    for value in entries.values_mut() {
        normalize(value);
    }
}

/// [`normalize_list`] for one quantity.
pub fn normalize(value: &mut Value) {
    if let Ok(quantity) = Quantity::from_json(value) {
        *value = quantity.rounded_to_millis().to_string().into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn canonical_forms() {
        let cases = [
            ("0", "0"),
            ("0.0m", "0"),
            ("1000m", "1"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("5.", "5"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("1023Ki", "1023Ki"),
            ("512Ki", "512Ki"),
            ("0.5Ki", "512"),
            ("1024M", "1024M"),
            ("1000Mi", "1000Mi"),
            ("1000k", "1M"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e-1", "1200e-3"),
            ("100e2", "10e3"),
            ("1E", "1E"),
            ("-1", "-1"),
            ("+1", "1"),
            ("0.1n", "1n"),
            ("123456789", "123456789"),
            ("4Ei", "4Ei"),
            ("100E", "9223372036854775807"),
        ];
        for (text, canonical) in cases {
            assert_eq!(text.parse::<Quantity>().map(|q| q.to_string()).as_deref(), Ok(canonical), "{text}");
        }
        for bad in ["", "abc", "1.2.3", "1x", "e3", "1e", "1ki", ".", "-", "1 Gi", "1e+", "١"] {
            assert_eq!(bad.parse::<Quantity>(), Err(ParseQuantityError), "{bad}");
        }
    }

    #[test]
    fn amounts_compare_across_notations() {
        let q = |text: &str| text.parse::<Quantity>().expect("a literal quantity");
        assert_eq!(q("1Gi"), q("1073741824"));
        assert!(q("1G") < q("1Gi") && q("-1") < q("0"));
        assert_eq!(q("1100m").units(), 2);
        assert_eq!(q("1.0001").millis(), 1001);
        assert_eq!(q("1Gi").minus(q("1Mi")).to_string(), "1023Mi");
        assert_eq!(Quantity::ZERO.plus(q("2Ki")).to_string(), "2Ki");
        assert_eq!(Quantity::of(&serde_json::json!({"cpu": 2}), "cpu").millis(), 2000);
    }

    proptest! {
        #[test]
        fn the_canonical_form_reads_back_equal(number in "[0-9]{1,12}(\\.[0-9]{0,6})?", suffix in "(n|u|m||k|M|G|Ki|Mi|Gi|Ti|e[0-9]|E-[0-9])") {
            let quantity: Quantity = format!("{number}{suffix}").parse().expect("generated to be valid");
            let text = quantity.to_string();
            let again: Quantity = text.parse().expect("the canonical form is valid");
            prop_assert_eq!(again, quantity);
            prop_assert_eq!(again.to_string(), text);
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}") {
            let _ = text.parse::<Quantity>();
        }

        #[test]
        fn sums_are_exact(a in 0i64..1_000_000_000_000, b in 0i64..1_000_000_000_000) {
            prop_assert_eq!(Quantity::from_millis(a).plus(Quantity::from_millis(b)).millis(), a + b);
        }
    }
}
