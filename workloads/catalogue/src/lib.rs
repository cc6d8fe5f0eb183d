//! A library that is a component: it exports `shop:goods/prices` and imports `shop:goods/tax`.
//!
//! `hoard` takes all memory and `trap` fails, whoever asks for them.

use exports::shop::goods::prices::Guest;
use shop::goods::tax::with_tax;

wit_bindgen::generate!({ path: "../till/wit", world: "catalogue" });

struct Catalogue;

export!(Catalogue);

impl Guest for Catalogue {
    fn price(item: String) -> Option<u64> {
        let cents = match item.as_str() {
            "paddle" => 2_500,
            "coracle" => 120_000,
            "hoard" => {
                let mut held = Vec::new();
                loop {
                    held.push(vec![1u8; 1 << 20]);
                    std::hint::black_box(&held);
                }
            }
            "trap" => panic!("as it was asked"),
            _ => return None,
        };
        Some(with_tax(cents))
    }
}
