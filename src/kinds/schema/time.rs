//! Times as the API writes them: RFC 3339 in UTC, whole seconds (`Time`) or microseconds (`MicroTime`).

use jiff::Timestamp;

/// Reads a time of either precision and writes it canonically; the error is upstream's text.
pub fn canonical(text: &str, micro: bool) -> Result<String, String> {
    let layout = if micro { "2006-01-02T15:04:05.000000Z07:00" } else { "2006-01-02T15:04:05Z07:00" };
    match parse(text) {
        Ok(at) => Ok(write(at, micro)),
        Err((rest, expected)) => {
            Err(format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {expected:?}"))
        }
    }
}

/// Writes a time in UTC.
pub fn write(at: Timestamp, micro: bool) -> String {
    // Rounding down, as Go cuts digits off.
    if micro {
        at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
    } else {
        at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }
}

/// Reads the parts from left to right, so that a failure names the part and what was there.
fn parse(text: &str) -> Result<Timestamp, (String, &'static str)> {
    let mut rest = text;
    for (digits, name, separator) in
        [(4, "2006", "-"), (2, "01", "-"), (2, "02", "T"), (2, "15", ":"), (2, "04", ":"), (2, "05", "")]
    {
        let number = rest.get(..digits).filter(|part| part.bytes().all(|b| b.is_ascii_digit()));
        if number.is_none() {
            return Err((rest.to_owned(), name));
        }
        rest = &rest[digits..];
        match rest.strip_prefix(separator) {
            Some(after) => rest = after,
            None => return Err((rest.to_owned(), separator)),
        }
    }
    if let Some(fraction) = rest.strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return Err((rest.to_owned(), "Z07:00"));
        }
        rest = &fraction[digits..];
    }
    if !is_zone(rest) {
        return Err((rest.to_owned(), "Z07:00"));
    }
    text.parse().map_err(|_| (text.to_owned(), "2006"))
}

fn is_zone(text: &str) -> bool {
    let bytes = text.as_bytes();
    match bytes.len() {
        1 => text == "Z",
        6 => {
            matches!(bytes[0], b'+' | b'-')
                && bytes[3] == b':'
                && [1, 2, 4, 5].iter().all(|at| bytes[*at].is_ascii_digit())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_form() {
        for (text, micro, wanted) in [
            ("2024-05-06T07:08:09Z", false, "2024-05-06T07:08:09Z"),
            ("2024-05-06T07:08:09.999Z", false, "2024-05-06T07:08:09Z"),
            ("2024-05-06T07:08:09+02:00", false, "2024-05-06T05:08:09Z"),
            ("2024-05-06T07:08:09Z", true, "2024-05-06T07:08:09.000000Z"),
            ("2024-05-06T07:08:09.123456789Z", true, "2024-05-06T07:08:09.123456Z"),
        ] {
            assert_eq!(canonical(text, micro).as_deref(), Ok(wanted));
        }
    }

    #[test]
    fn the_part_that_fails_is_named() {
        assert_eq!(
            canonical("soon", false).unwrap_err(),
            r#"parsing time "soon" as "2006-01-02T15:04:05Z07:00": cannot parse "soon" as "2006""#
        );
        assert!(canonical("2024-05-06", false).unwrap_err().ends_with(r#"cannot parse "" as "T""#));
        for text in ["", "2024-13-06T07:08:09Z", "2024-05-06T07:08:09", "2024-05-06t07:08:09Z", "é024"] {
            assert!(canonical(text, false).is_err(), "{text}");
        }
    }
}
