//! What a model call used and what that cost.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::money::Picodollars;

/// Tokens of one or more model calls. `prompt` is all input, cached or not; `completion` is all output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// All input.
    pub prompt: u64,
    /// All output.
    pub completion: u64,
    /// Of the input: read from the provider's cache.
    pub cache_read: u64,
    /// Of the input: written to the provider's cache.
    pub cache_write: u64,
    /// Of the output: reasoning.
    pub reasoning: u64,
}

impl Tokens {
    /// The sum, class by class.
    pub fn plus(self, other: Self) -> Self {
        Self {
            prompt: self.prompt.saturating_add(other.prompt),
            completion: self.completion.saturating_add(other.completion),
            cache_read: self.cache_read.saturating_add(other.cache_read),
            cache_write: self.cache_write.saturating_add(other.cache_write),
            reasoning: self.reasoning.saturating_add(other.reasoning),
        }
    }
}

/// Tokens and cost of a model call, a turn or the session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// All input tokens, cached or not.
    pub prompt_tokens: u64,
    /// All output tokens.
    pub completion_tokens: u64,
    /// Of the input tokens, those read from the provider's cache.
    pub cache_read_tokens: u64,
    /// Of the input tokens, those written to the provider's cache.
    pub cache_write_tokens: u64,
    /// Of the output tokens, those of reasoning.
    pub reasoning_tokens: u64,
    /// Cost in US dollars, as a floating point number.
    pub cost: f64,
    /// Cost in US dollars as an exact decimal; absent when no price is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<String>,
    /// False where the sum lacks a call whose price or usage is unknown.
    pub cost_complete: bool,
}

/// Tokens with their cost while they are being summed; `Usage` is how they are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// Tokens by class.
    pub tokens: Tokens,
    /// What is known of the cost.
    pub cost: Option<Picodollars>,
    /// Calls whose cost is not known.
    pub unpriced_calls: u64,
    /// Calls that count for budgets: all but those that were refused before the model said anything.
    #[serde(default)]
    pub calls: u64,
    /// Tokens that calls may have used at most beyond what is known, for budgets alone.
    #[serde(default)]
    pub unknown_tokens: u64,
    /// What these may have cost at most.
    #[serde(default)]
    pub unknown_cost: Picodollars,
}

impl Spent {
    /// What one call spent; `cost` is `None` where the price or the usage is unknown.
    pub fn call(tokens: Tokens, cost: Option<Picodollars>) -> Self {
        Self { tokens, cost, unpriced_calls: u64::from(cost.is_none()), calls: 1, ..Self::default() }
    }

    /// The sum of both.
    pub fn plus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.plus(other.tokens),
            cost: match (self.cost, other.cost) {
                (Some(a), Some(b)) => Some(a.plus(b)),
                (a, b) => a.or(b),
            },
            unpriced_calls: self.unpriced_calls + other.unpriced_calls,
            calls: self.calls + other.calls,
            unknown_tokens: self.unknown_tokens.saturating_add(other.unknown_tokens),
            unknown_cost: self.unknown_cost.plus(other.unknown_cost),
        }
    }
}

impl From<Spent> for Usage {
    fn from(spent: Spent) -> Self {
        let Tokens { prompt, completion, cache_read, cache_write, reasoning } = spent.tokens;
        let complete = spent.unpriced_calls == 0;
        let cost = spent.cost.or(complete.then(Picodollars::default));
        Self {
            prompt_tokens: prompt,
            completion_tokens: completion,
            cache_read_tokens: cache_read,
            cache_write_tokens: cache_write,
            reasoning_tokens: reasoning,
            cost: cost.unwrap_or_default().dollars(),
            cost_usd: cost.map(|cost| cost.to_string()),
            cost_complete: complete,
        }
    }
}
