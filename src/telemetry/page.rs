//! Pages of metrics in the Prometheus text format, and the histograms on them.

use std::fmt::Write as _;
use std::time::Duration;

/// The media type of a page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page in the making.
#[derive(Debug, Default)]
pub struct Page(String);

impl Page {
    /// What the samples that follow are: `kind` is `counter`, `gauge` or `histogram`.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.sample_at(name, labels, value, None);
    }

    /// A sample of a moment that is not now, in milliseconds since 1970.
    pub fn sample_at(&mut self, name: &str, labels: &[(&str, &str)], value: f64, at_millis: Option<i64>) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"{}\"", if i == 0 { '{' } else { ',' }, escaped(text));
        }
        let _ = write!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
        if let Some(at) = at_millis {
            let _ = write!(self.0, " {at}");
        }
        self.0.push('\n');
    }

    pub fn histogram(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        let mut below = 0;
        for (i, count) in histogram.counts.iter().enumerate() {
            below += count;
            let bound = histogram.bounds.get(i).map_or_else(|| "+Inf".to_owned(), ToString::to_string);
            let labels = [labels, &[("le", bound.as_str())]].concat();
            self.sample(&format!("{name}_bucket"), &labels, below as f64);
        }
        self.sample(&format!("{name}_sum"), labels, histogram.sum);
        self.sample(&format!("{name}_count"), labels, below as f64);
    }

    pub fn into_text(self) -> String {
        self.0
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// How long things took.
#[derive(Debug, Clone)]
pub struct Histogram {
    /// Upper bounds in seconds.
    bounds: &'static [f64],
    /// By bound; the last is everything above.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    pub fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    pub fn add(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = self.bounds.iter().position(|bound| seconds <= *bound).unwrap_or(self.bounds.len());
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.sum += seconds;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_what_prometheus_reads() {
        let mut histogram = Histogram::new(&[0.5, 1.0]);
        for millis in [250, 500, 2000] {
            histogram.add(Duration::from_millis(millis));
        }
        let mut page = Page::default();
        page.family("took_seconds", "histogram", "How long.");
        page.histogram("took_seconds", &[("what", "a\"b\\c\n")], &histogram);
        page.sample_at("alone", &[], 1.5, Some(7));
        let expected = r#"# HELP took_seconds How long.
# TYPE took_seconds histogram
took_seconds_bucket{what="a\"b\\c\n",le="0.5"} 2
took_seconds_bucket{what="a\"b\\c\n",le="1"} 2
took_seconds_bucket{what="a\"b\\c\n",le="+Inf"} 3
took_seconds_sum{what="a\"b\\c\n"} 2.75
took_seconds_count{what="a\"b\\c\n"} 3
alone 1.5 7
"#;
        assert_eq!(page.into_text(), expected);
    }
}
