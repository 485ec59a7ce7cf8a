//! Money, exact: integer picodollars, so that sums never drift.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// US dollars in units of 10^-12. A token at 0.0001 dollars per million still is a whole number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Picodollars(pub i64);

const PER_DOLLAR: i64 = 1_000_000_000_000;

impl Picodollars {
    /// The price of one token, given dollars per million tokens as price tables have it.
    pub fn per_token(dollars_per_million: f64) -> Self {
        Self((dollars_per_million * 1e6).round() as i64)
    }

    /// This price times a number of tokens; saturates instead of overflowing.
    pub fn times(self, tokens: u64) -> Self {
        Self(self.0.saturating_mul(i64::try_from(tokens).unwrap_or(i64::MAX)))
    }

    /// The sum; saturates instead of overflowing.
    pub fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Dollars as a floating point number, for fields that are published as one.
    pub fn dollars(self) -> f64 {
        self.0 as f64 / PER_DOLLAR as f64
    }
}

/// Dollars as a decimal, such as `0.50`: not negative, with up to twelve places.
impl FromStr for Picodollars {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "is no amount of US dollars such as 0.50";
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || fraction.len() > 12 {
            return Err(WRONG);
        }
        let whole: i64 = whole.parse().map_err(|_| WRONG)?;
        let fraction: i64 = format!("{fraction:0<12}").parse().map_err(|_| WRONG)?;
        whole.checked_mul(PER_DOLLAR).and_then(|whole| whole.checked_add(fraction)).map(Self).ok_or(WRONG)
    }
}

/// The exact decimal in dollars, without trailing zeros: `0.0123`.
impl fmt::Display for Picodollars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / PER_DOLLAR, (self.0 % PER_DOLLAR).unsigned_abs());
        let sign = if self.0 < 0 && whole == 0 { "-" } else { "" };
        if fraction == 0 {
            return write!(f, "{sign}{whole}");
        }
        let digits = format!("{fraction:012}");
        write!(f, "{sign}{whole}.{}", digits.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_prints_and_no_nonsense() {
        for text in ["0", "0.5", "12.000000000001", "9000000"] {
            assert_eq!(text.parse::<Picodollars>().map(|money| money.to_string()).as_deref(), Ok(text));
        }
        assert_eq!("0.50".parse(), Ok(Picodollars(500_000_000_000)));
        for text in ["", ".", "1.", ".5", "-1", "+1", "1e3", "0.0000000000001", "99999999999999", "1,5", " 1"] {
            assert!(text.parse::<Picodollars>().is_err(), "{text}");
        }
    }

    #[test]
    fn prints_the_exact_decimal() {
        assert_eq!(Picodollars(0).to_string(), "0");
        assert_eq!(Picodollars(1).to_string(), "0.000000000001");
        assert_eq!(Picodollars(-1_500_000_000_000).to_string(), "-1.5");
        assert_eq!(Picodollars::per_token(0.0375).times(1_000_000).to_string(), "0.0375");
    }
}
