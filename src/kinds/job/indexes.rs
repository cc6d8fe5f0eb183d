//! Sets of completion indexes as text: `1,3-5,7`.

use std::fmt::Write as _;

/// Disjoint intervals, ends included, in rising order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// Reads what a status holds. Indexes of `completions` and above do not count any more: the Job has
    /// been made smaller.
    pub fn of_status(text: &str, completions: i32) -> Self {
        let mut set = Self::default();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) else { break };
            if first >= completions {
                break;
            }
            set.0.push((first, last.min(completions - 1)));
        }
        set
    }

    /// Reads what a user wrote, and counts it; upstream's words for what is wrong.
    pub fn parse(text: &str, completions: i64) -> Result<(Self, i64), String> {
        let (mut set, mut count, mut last) = (Self::default(), 0, None::<i64>);
        if text.is_empty() {
            return Ok((set, 0));
        }
        for part in text.split(',') {
            let ends: Vec<&str> = part.split('-').collect();
            if ends.len() > 2 {
                return Err(format!(
                    "the fragment \"{part}\" violates the requirement that an index interval can have at most two parts separated by '-'"
                ));
            }
            let mut interval = Vec::new();
            for end in ends {
                let number: i64 =
                    end.parse().map_err(|_| format!("cannot convert string to integer for index: \"{end}\""))?;
                if number >= completions {
                    return Err(format!("too large index: \"{end}\""));
                }
                if let Some(last) = last.filter(|last| *last >= number) {
                    return Err(format!("non-increasing order, previous: {last}, current: {number}"));
                }
                last = Some(number);
                interval.push(i32::try_from(number).unwrap_or(i32::MAX));
            }
            let (first, end) = (interval.first().copied().unwrap_or(0), interval.last().copied().unwrap_or(0));
            count += i64::from(end) - i64::from(first) + 1;
            set.0.push((first, end));
        }
        Ok((set, count))
    }

    pub fn contains(&self, index: i32) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    pub fn len(&self) -> i32 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds indexes, in any order.
    pub fn extend(&mut self, more: impl IntoIterator<Item = i32>) {
        let mut all: Vec<(i32, i32)> = more.into_iter().map(|index| (index, index)).collect();
        if all.is_empty() {
            return;
        }
        all.append(&mut self.0);
        all.sort_unstable();
        for (first, last) in all {
            match self.0.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => self.0.push((first, last)),
            }
        }
    }

    /// How many of `self` are in `other`, too.
    pub fn common(&self, other: &Self) -> i32 {
        let overlap = |a: &(i32, i32), b: &(i32, i32)| (a.1.min(b.1) - a.0.max(b.0) + 1).max(0);
        self.0.iter().flat_map(|a| other.0.iter().map(move |b| overlap(a, b))).sum()
    }

    /// The indexes below `end` that are in none of the sets, in rising order.
    pub fn missing_below<'a>(end: i32, sets: &'a [&'a Self]) -> impl Iterator<Item = i32> + 'a {
        (0..end).filter(move |index| !sets.iter().any(|set| set.contains(*index)))
    }
}

impl std::fmt::Display for Indexes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = String::new();
        for (i, (first, last)) in self.0.iter().enumerate() {
            text.push_str(if i == 0 { "" } else { "," });
            match last - first {
                0 => write!(text, "{first}")?,
                1 => write!(text, "{first},{last}")?,
                _ => write!(text, "{first}-{last}")?,
            }
        }
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_extended_and_written() {
        let mut set = Indexes::of_status("1,3-5,9-20", 11);
        assert_eq!(set.to_string(), "1,3-5,9,10");
        set.extend([2, 7, 0]);
        assert_eq!(set.to_string(), "0-5,7,9,10");
        assert_eq!((set.len(), set.contains(5), set.contains(6), set.contains(10)), (9, true, false, true));
        assert_eq!(set.common(&Indexes::of_status("4-9", 11)), 4);
        assert_eq!(Indexes::missing_below(11, &[&set]).collect::<Vec<_>>(), [6, 8]);
        assert_eq!(Indexes::of_status("", 5), Indexes::default());
    }

    #[test]
    fn what_a_user_wrote_is_checked() {
        assert_eq!(Indexes::parse("0,2-4", 5).map(|(set, count)| (set.to_string(), count)), Ok(("0,2-4".into(), 4)));
        let cases = [
            ("a", "cannot convert string to integer for index: \"a\""),
            ("5", "too large index: \"5\""),
            ("2,1", "non-increasing order, previous: 2, current: 1"),
            ("3-3", "non-increasing order, previous: 3, current: 3"),
            (
                "0-1-2",
                "the fragment \"0-1-2\" violates the requirement that an index interval can have at most two parts separated by '-'",
            ),
        ];
        for (text, why) in cases {
            assert_eq!(Indexes::parse(text, 5), Err(why.to_owned()));
        }
    }
}
