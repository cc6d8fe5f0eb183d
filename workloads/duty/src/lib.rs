//! A library that is a component: it exports `shop:goods/tax`, a fifth of everything.

use exports::shop::goods::tax::Guest;

wit_bindgen::generate!({ path: "../till/wit", world: "duty" });

struct Duty;

export!(Duty);

impl Guest for Duty {
    fn with_tax(cents: u64) -> u64 {
        cents + cents / 5
    }
}
