//! The small languages: quantities, continue tokens, queries, cron schedules, names and times.

#![no_main]

use coracle::apiserver::continuation::Token;
use coracle::apiserver::target;
use coracle::kinds::{cron::Schedule, names, quantity::Quantity, structural, time};
use jiff::{Timestamp, tz::TimeZone};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(quantity) = text.parse::<Quantity>() {
        // Both forms are one amount, and what is printed is read as what it was.
        let shown = quantity.to_string();
        let again: Quantity = shown.parse().expect("what is printed can be read");
        assert_eq!(again.to_string(), shown, "{text}");
        let _ = quantity.plus(again).minus(quantity).rounded_to_millis();
    }
    if let Ok(token) = Token::read(text) {
        assert_eq!(Token::read(&token.to_string()), Ok(token));
    }
    if let Ok(schedule) = Schedule::parse(text) {
        let _ = schedule.next(Timestamp::UNIX_EPOCH, &TimeZone::UTC);
    }
    let _ = time::parse(&text.into()).map(time::write);
    let _ = structural::formats::duration(text);
    for format in ["date-time", "ipv4", "ipv6", "cidr", "uuid", "email", "duration", "byte", "hostname", "uri"] {
        let _ = structural::formats::matches(format, text);
    }
    let _ = structural::paths::JsonPath::parse(text);
    for rule in [names::dns1123_label, names::dns1123_subdomain, names::qualified_name, names::label_value, names::cidr]
    {
        let _ = rule(text);
    }
    let (path, method) = (format!("/apis/{text}"), http::Method::GET);
    let _ = target::parse(&Default::default(), &method, &path, false);
});
