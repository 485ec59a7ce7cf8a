//! The table that is printed, and the few numbers that sum up many.

use std::{fmt, time::Duration};

/// One line of the table.
pub(crate) struct Row([String; 4]);

impl Row {
    pub(crate) fn new(
        what: impl Into<String>,
        target: impl Into<String>,
        measured: impl Into<String>,
        beside: impl Into<String>,
    ) -> Self {
        Self([what.into(), target.into(), measured.into(), beside.into()])
    }
}

/// All lines.
#[derive(Default)]
pub(crate) struct Table(Vec<Row>);

impl Table {
    /// Adds a line, and tells it at once.
    pub(crate) fn add(&mut self, row: Row) {
        eprintln!("  {}", row.0.join(" | "));
        self.0.push(row);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| what | to reach | measured | beside it in the same run |")?;
        writeln!(f, "| --- | --- | --- | --- |")?;
        for Row(cells) in &self.0 {
            writeln!(f, "| {} |", cells.join(" | "))?;
        }
        Ok(())
    }
}

/// Measurements of one thing, in one unit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Numbers(Vec<f64>);

impl Numbers {
    pub(crate) fn push(&mut self, number: f64) {
        self.0.push(number);
    }

    /// Adds a time in milliseconds.
    pub(crate) fn push_ms(&mut self, time: Duration) {
        self.push(time.as_secs_f64() * 1e3);
    }

    pub(crate) fn append(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The number below which this share (0 to 1) of them lies.
    pub(crate) fn at(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let index = (share * sorted.len().saturating_sub(1) as f64).round() as usize;
        sorted.get(index).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.at(0.5)
    }

    /// Smallest, median and largest.
    pub(crate) fn spread(&self) -> String {
        format!("{} / {} / {}", short(self.at(0.0)), short(self.median()), short(self.at(1.0)))
    }

    /// Median and 99th percentile.
    pub(crate) fn percentiles(&self) -> String {
        format!("p50 {}, p99 {}", short(self.median()), short(self.at(0.99)))
    }
}

/// Three digits that matter, and thousands apart.
pub(crate) fn short(number: f64) -> String {
    if number.abs() < 100.0 {
        let digits = if number.abs() < 1.0 {
            3
        } else if number.abs() < 10.0 {
            2
        } else {
            1
        };
        return format!("{number:.digits$}");
    }
    let digits = format!("{:.0}", number.abs());
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0.0 { format!("-{text}") } else { text }
}
