//! Which mutating webhooks are asked a second time. Pure.
//!
//! A webhook that wants to see what others make of the object says `reinvocationPolicy: IfNeeded`. It is
//! asked again, once, if the object was changed after it was asked: by a later webhook, or by the
//! plugins that run again because a webhook has changed something.

use std::collections::BTreeSet;

#[derive(Debug, Default)]
pub struct Rounds {
    /// Those that have been asked and want to be asked again.
    willing: BTreeSet<usize>,
    second: BTreeSet<usize>,
    changed: bool,
}

impl Rounds {
    /// The webhook `number` has been passed: whether it was asked and wants to be asked again, and
    /// whether it has changed the object.
    pub fn asked(&mut self, number: usize, willing: bool, changed: bool) {
        if changed {
            self.changed = true;
            self.second.extend(&self.willing);
        }
        if willing {
            self.willing.insert(number);
        }
    }

    /// Whether any webhook has changed anything.
    pub fn changed(&self) -> bool {
        self.changed
    }

    /// The plugins have changed what the webhooks have left.
    pub fn plugins_changed(&mut self) {
        self.second.extend(&self.willing);
    }

    /// Who is asked again, in order.
    pub fn second(self) -> BTreeSet<usize> {
        self.second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_seen_it_all_is_not_asked_again() {
        let second = |passed: &[(bool, bool)], plugins: bool| {
            let mut rounds = Rounds::default();
            for (number, (willing, changed)) in passed.iter().enumerate() {
                rounds.asked(number, *willing, *changed);
            }
            if plugins {
                rounds.plugins_changed();
            }
            (rounds.changed(), rounds.second().into_iter().collect::<Vec<_>>())
        };
        let (willing, unwilling) = ((true, true), (false, true));
        type Case<'a> = (&'a [(bool, bool)], bool, (bool, Vec<usize>));
        let cases: [Case<'_>; 6] = [
            (&[], false, (false, vec![])),
            (&[(true, false), (false, false)], false, (false, vec![])),
            (&[willing], false, (true, vec![])),
            (&[willing, unwilling], false, (true, vec![0])),
            (&[willing, unwilling, willing], false, (true, vec![0])),
            (&[willing, unwilling, willing], true, (true, vec![0, 2])),
        ];
        for (passed, plugins, want) in cases {
            assert_eq!(second(passed, plugins), want, "{passed:?} {plugins}");
        }
    }
}
