//! The difference of two texts in unified form, as upstream shows it in errors.

/// Lines of context around a change.
const CONTEXT: usize = 3;
/// Cells of the table that a comparison may take; beyond it the changed middle is shown as a whole.
const MAX_CELLS: usize = 4_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edit {
    Keep,
    Remove,
    Add,
}

/// Hunks of `old` → `new`; empty if they are the same.
pub fn unified(old: &[String], new: &[String]) -> String {
    let edits = edits(old, new);
    let mut text = String::new();
    let mut start = 0;
    while let Some(first) = (start..edits.len()).find(|i| edits[*i] != Edit::Keep) {
        let from = first.saturating_sub(CONTEXT).max(start);
        let mut to = first + 1;
        // Changes whose contexts touch share a hunk.
        while let Some(next) = (to..edits.len().min(to + 2 * CONTEXT + 1)).find(|i| edits[*i] != Edit::Keep) {
            to = next + 1;
        }
        let to = (to + CONTEXT).min(edits.len());
        hunk(&mut text, old, new, &edits, from, to);
        start = to;
    }
    text
}

fn hunk(text: &mut String, old: &[String], new: &[String], edits: &[Edit], from: usize, to: usize) {
    let count = |range: &[Edit], without: Edit| range.iter().filter(|edit| **edit != without).count();
    let (mut i, mut j) = (count(&edits[..from], Edit::Add), count(&edits[..from], Edit::Remove));
    let hunk = &edits[from..to];
    let (old_range, new_range) = (range(i, count(hunk, Edit::Add)), range(j, count(hunk, Edit::Remove)));
    text.push_str(&format!("@@ -{old_range} +{new_range} @@\n"));
    for edit in hunk {
        let (sign, line) = match edit {
            Edit::Keep => (' ', old.get(i)),
            Edit::Remove => ('-', old.get(i)),
            Edit::Add => ('+', new.get(j)),
        };
        i += usize::from(*edit != Edit::Add);
        j += usize::from(*edit != Edit::Remove);
        text.push(sign);
        text.push_str(line.map_or("", String::as_str));
        text.push('\n');
    }
}

/// Lines count from one; an empty range names the line before it.
fn range(start: usize, length: usize) -> String {
    match length {
        0 => format!("{start},0"),
        1 => format!("{}", start + 1),
        _ => format!("{},{length}", start + 1),
    }
}

/// One edit a line, removals before additions.
fn edits(old: &[String], new: &[String]) -> Vec<Edit> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[head..], &new[head..]);
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[..old.len() - tail], &new[..new.len() - tail]);
    let mut edits = vec![Edit::Keep; head];
    edits.extend(middle(old, new));
    edits.extend(std::iter::repeat_n(Edit::Keep, tail));
    edits
}

/// By the longest common subsequence.
fn middle(old: &[String], new: &[String]) -> Vec<Edit> {
    let (n, m) = (old.len(), new.len());
    if n.saturating_mul(m) > MAX_CELLS {
        let removed = std::iter::repeat_n(Edit::Remove, n);
        return removed.chain(std::iter::repeat_n(Edit::Add, m)).collect();
    }
    let mut common = vec![vec![0u32; m + 1]; n + 1];
    for i in (0..n).rev() {
        for j in (0..m).rev() {
            common[i][j] = match old[i] == new[j] {
                true => common[i + 1][j + 1] + 1,
                false => common[i + 1][j].max(common[i][j + 1]),
            };
        }
    }
    let (mut i, mut j, mut edits) = (0, 0, Vec::with_capacity(n + m));
    while i < n || j < m {
        if i < n && j < m && old[i] == new[j] {
            edits.push(Edit::Keep);
            (i, j) = (i + 1, j + 1);
        } else if j == m || (i < n && common[i + 1][j] >= common[i][j + 1]) {
            edits.push(Edit::Remove);
            i += 1;
        } else {
            edits.push(Edit::Add);
            j += 1;
        }
    }
    edits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn hunks() {
        assert_eq!(unified(&lines("a b"), &lines("a b")), "");
        assert_eq!(unified(&lines("a b c d e"), &lines("a b x d e")), "@@ -1,5 +1,5 @@\n a\n b\n-c\n+x\n d\n e\n");
        let old = lines("1 2 3 4 5 6 7 8 9 10 11 12");
        let new = lines("0 1 2 3 4 5 6 7 8 9 10 11");
        assert_eq!(unified(&old, &new), "@@ -1,3 +1,4 @@\n+0\n 1\n 2\n 3\n@@ -9,4 +10,3 @@\n 9\n 10\n 11\n-12\n");
    }
}
