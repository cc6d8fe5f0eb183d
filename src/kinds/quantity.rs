//! Amounts of resources: comparing, adding and rounding what [`schema::quantity`](super::schema::quantity)
//! reads and writes.
//!
//! An amount is exact to a billionth; nothing here is a float. It remembers the notation it was
//! written in only to be written so again: equality and order are of the amount.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use super::schema::quantity::{self as text, Format, QuantityError};

const NANOS_PER_UNIT: i128 = 1_000_000_000;
const NANOS_PER_MILLI: i128 = 1_000_000;

/// An exact amount of a resource.
#[derive(Debug, Clone, Copy)]
pub struct Quantity(text::Quantity);

impl Quantity {
    pub const ZERO: Self = Self(text::Quantity::ZERO);

    /// Whole units in decimal notation.
    pub fn from_units(units: i64) -> Self {
        Self::new(i128::from(units) * NANOS_PER_UNIT, Format::DecimalSi)
    }

    /// Thousandths in decimal notation: CPU shares.
    pub fn from_millis(millis: i64) -> Self {
        Self::new(i128::from(millis) * NANOS_PER_MILLI, Format::DecimalSi)
    }

    /// Bytes, to be shown with binary suffixes.
    pub fn from_bytes(bytes: i64) -> Self {
        Self::new(i128::from(bytes) * NANOS_PER_UNIT, Format::BinarySi)
    }

    fn new(nanos: i128, format: Format) -> Self {
        Self(text::Quantity::from_nanos(nanos, format))
    }

    /// Reads a JSON string, or a JSON number as upstream does.
    pub fn from_json(value: &Value) -> Result<Self, QuantityError> {
        match value {
            Value::String(text) => text.trim().parse(),
            Value::Number(number) => number.to_string().parse(),
            _ => Err(QuantityError::Format),
        }
    }

    /// The entry `name` of a ResourceList; zero where absent or unreadable.
    pub fn of(list: &Value, name: &str) -> Self {
        list.get(name).and_then(|value| Self::from_json(value).ok()).unwrap_or(Self::ZERO)
    }

    /// Whole units, rounded up, as limits and requests are.
    pub fn units(self) -> i64 {
        self.0.value()
    }

    /// Thousandths, rounded up.
    pub fn millis(self) -> i64 {
        self.0.milli()
    }

    pub fn is_zero(self) -> bool {
        self.0.nanos() == 0
    }

    pub fn is_negative(self) -> bool {
        self.0.nanos() < 0
    }

    /// Whether it counts whole units.
    pub fn is_integer(self) -> bool {
        self.0.nanos() % NANOS_PER_UNIT == 0
    }

    /// The sum, in the notation of `self` unless that is zero.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let format = if self.is_zero() { other.0.format } else { self.0.format };
        Self::new(self.0.nanos() + other.0.nanos(), format)
    }

    /// The difference, in the notation of `self` unless that is zero.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        self.plus(Self::new(-other.0.nanos(), other.0.format))
    }

    /// Rounded up to whole thousandths, as upstream stores resource lists.
    #[must_use]
    pub fn rounded_to_millis(self) -> Self {
        let nanos = self.0.nanos();
        match nanos % NANOS_PER_MILLI {
            0 => self,
            rest => Self::new(nanos - rest + nanos.signum() * NANOS_PER_MILLI, self.0.format),
        }
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text::parse(text).map(Self)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.0.nanos() == other.0.nanos()
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
        self.0.nanos().cmp(&other.0.nanos())
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

    fn q(text: &str) -> Quantity {
        text.parse().expect("a literal quantity")
    }

    #[test]
    fn amounts_compare_across_notations() {
        assert_eq!(q("1Gi"), q("1073741824"));
        assert!(q("1G") < q("1Gi") && q("-1") < q("0"));
        assert_eq!(q("1100m").units(), 2);
        assert_eq!(q("1.0001").millis(), 1001);
        assert_eq!(q("1Gi").minus(q("1Mi")).to_string(), "1023Mi");
        assert_eq!(Quantity::ZERO.plus(q("2Ki")).to_string(), "2Ki");
        assert_eq!(Quantity::of(&serde_json::json!({"cpu": 2}), "cpu").millis(), 2000);
        assert_eq!(Quantity::from_bytes(64 << 20).to_string(), "64Mi");
    }

    #[test]
    fn lists_are_rounded_up_to_thousandths() {
        let mut list = serde_json::json!({"cpu": "0.0001", "memory": "1024Mi", "x": "-1.5m", "bad": "abc"});
        normalize_list(&mut list);
        assert_eq!(list, serde_json::json!({"cpu": "1m", "memory": "1Gi", "x": "-2m", "bad": "abc"}));
    }

    proptest! {
        #[test]
        fn sums_are_exact(a in 0i64..1_000_000_000_000, b in 0i64..1_000_000_000_000) {
            prop_assert_eq!(Quantity::from_millis(a).plus(Quantity::from_millis(b)).millis(), a + b);
        }
    }
}
