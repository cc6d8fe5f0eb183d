//! Times as the API writes them, and ages as the tables show them.
//!
//! The clock stays outside: every function takes what "now" is.

use jiff::Timestamp;
use serde_json::Value;

/// Reads an RFC 3339 time; `None` for anything else, absence included.
pub fn parse(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// How long ago `value` was, in a table's words; `<unknown>` where it is not a time.
pub fn age(value: &Value, now: Timestamp) -> String {
    match parse(value) {
        Some(then) => human_duration(now.as_second() - then.as_second()),
        None => "<unknown>".to_owned(),
    }
}

/// The age of an object since its `metadata.creationTimestamp`.
pub fn object_age(object: &Value, now: Timestamp) -> String {
    age(&object["metadata"]["creationTimestamp"], now)
}

/// A time as `metav1.Time` writes it: UTC, whole seconds.
pub fn write(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A time as `metav1.MicroTime` writes it: UTC, six decimals.
pub fn write_micro(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// A span in two units at most, coarser the longer it is: `5s`, `3m20s`, `45m`, `5h12m`, `3d`, `2y40d`.
///
/// A clock that is a second off gives `0s`; beyond that a negative span is `<invalid>`.
pub fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |large: i64, large_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{large}{large_unit}"),
        _ => format!("{large}{large_unit}{small}{small_unit}"),
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(s / MINUTE, "m", s % MINUTE, "s"),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(s / HOUR, "h", s / MINUTE % 60, "m"),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(s / DAY, "d", s / HOUR % 24, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s / YEAR, "y", s / DAY % 365, "d"),
        s => format!("{}y", s / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn spans_get_coarser() {
        let cases = [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (3 * 3600 + 12 * 60, "3h12m"),
            (8 * 3600, "8h"),
            (47 * 3600, "47h"),
            (2 * 86_400, "2d"),
            (2 * 86_400 + 3600, "2d1h"),
            (8 * 86_400, "8d"),
            (729 * 86_400, "729d"),
            (730 * 86_400, "2y"),
            (800 * 86_400, "2y70d"),
            (9 * 365 * 86_400, "9y"),
        ];
        for (seconds, text) in cases {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn ages_of_objects() {
        let now = "2026-01-01T00:01:00Z".parse().expect("a literal time");
        assert_eq!(object_age(&json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}}), now), "60s");
        assert_eq!(object_age(&json!({}), now), "<unknown>");
        assert_eq!(write(now), "2026-01-01T00:01:00Z");
        assert_eq!(write_micro(now), "2026-01-01T00:01:00.000000Z");
    }
}
