//! Models: what is known of them, what they cost, and what switches them on.

mod catalogue;
mod choice;
mod discovery;
mod providers;
mod table;

use std::{path::PathBuf, time::Duration};

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub(crate) use self::catalogue::{Catalogue, Model};
pub use self::choice::SetModel;
use super::{money::Picodollars, usage::Tokens};

/// A model that messages can be sent to, now or once its provider is switched on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ModelInfo {
    /// `provider/id`.
    #[schema(example = "anthropic/claude-opus-5-5")]
    pub id: String,
    /// Name for people.
    pub name: String,
    /// The provider's name.
    pub provider: String,
    /// Tokens that a call may have in all; 0 where it is not known.
    pub context_window: u32,
    /// Output tokens that one answer may have; 0 where it is not known.
    pub max_output_tokens: u32,
    /// Whether the prices hold; where it is false they are 0 and mean nothing.
    pub price_known: bool,
    /// US dollars for a million input tokens.
    pub cost_per_1m_input: f64,
    /// US dollars for a million output tokens.
    pub cost_per_1m_output: f64,
    /// US dollars for a million input tokens read from the provider's cache. Absent: charged like other input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_per_1m_cache_read: Option<f64>,
    /// US dollars for a million input tokens written to the provider's cache. Absent: charged like other input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_per_1m_cache_write: Option<f64>,
    /// Takes images.
    pub supports_attachments: bool,
    /// Can call tools. The agent needs this.
    pub supports_tools: bool,
    /// Reasons before it answers.
    pub supports_reasoning: bool,
    /// What it can do, one word each: `tools`, `images`, `reasoning`, `caching`.
    pub capabilities: Vec<String>,
    /// Whether a message can be sent to it now.
    pub available: bool,
    /// Why it is not available, such as the variable that is missing; absent where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable_reason: Option<String>,
}

/// What one token costs, by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Price {
    /// Input that is in no cache.
    pub input: Picodollars,
    /// Output.
    pub output: Picodollars,
    /// Input read from the cache.
    pub cache_read: Picodollars,
    /// Input written to the cache.
    pub cache_write: Picodollars,
}

impl Price {
    /// What a call cost that used so much, each class at its own price.
    pub fn cost(&self, tokens: &Tokens) -> Picodollars {
        let cached = tokens.cache_read.saturating_add(tokens.cache_write);
        let input = tokens.prompt.saturating_sub(cached);
        self.input
            .times(input)
            .plus(self.output.times(tokens.completion))
            .plus(self.cache_read.times(tokens.cache_read))
            .plus(self.cache_write.times(tokens.cache_write))
    }
}

/// The name of the provider of a model as `provider/id`, if it is one that there is.
pub(super) fn provider_of(model: &str) -> Option<&'static str> {
    let (name, _) = model.split_once('/')?;
    providers::ProviderName::named(name).map(providers::ProviderName::as_str)
}

impl ModelInfo {
    /// The price, where it is known.
    pub fn price(&self) -> Option<Price> {
        let input = Picodollars::per_token(self.cost_per_1m_input);
        self.price_known.then(|| Price {
            input,
            output: Picodollars::per_token(self.cost_per_1m_output),
            cache_read: self.cost_per_1m_cache_read.map_or(input, Picodollars::per_token),
            cache_write: self.cost_per_1m_cache_write.map_or(input, Picodollars::per_token),
        })
    }
}

/// What the operator says about providers. A blank text counts as none; nothing here is used before it is needed, and
/// `Debug` shows no key.
#[derive(Clone, Debug)]
pub struct ProviderSettings {
    /// Key for `anthropic/*`.
    pub anthropic_api_key: Option<SecretString>,
    /// Where Anthropic's API is, if elsewhere; with or without `/v1`. Then any id is taken, at an unknown price.
    pub anthropic_base_url: Option<String>,
    /// Key for `openai/*`.
    pub openai_api_key: Option<SecretString>,
    /// Where OpenAI's API is, if elsewhere, up to and including `/v1`. Then any id is taken, at an unknown price.
    pub openai_base_url: Option<String>,
    /// Address of an Azure OpenAI resource; `azure/*` are its deployments.
    pub azure_endpoint: Option<String>,
    /// Key for `azure/*`.
    pub azure_api_key: Option<SecretString>,
    /// Version of Azure's dated API, such as `2024-10-21`; none for the undated `v1`.
    pub azure_api_version: Option<String>,
    /// Key for `openrouter/*`.
    pub openrouter_api_key: Option<SecretString>,
    /// Key for `groq/*`.
    pub groq_api_key: Option<SecretString>,
    /// Key for `xai/*`.
    pub xai_api_key: Option<SecretString>,
    /// Key for `mistral/*`.
    pub mistral_api_key: Option<SecretString>,
    /// Key for `deepseek/*`.
    pub deepseek_api_key: Option<SecretString>,
    /// Address of a server of the user's own, with or without `/v1`; `local/*` is what it lists.
    pub local_endpoint: Option<String>,
    /// What `mock/script` plays.
    pub mock_script: Option<PathBuf>,
    /// A file in the form of the table that is compiled in (JSON or YAML); its entries add to that table or replace
    /// those of the same provider and id.
    pub models_file: Option<PathBuf>,
    /// How long a provider may take until its first token.
    pub first_token: Duration,
    /// How long a provider may take from one token to the next.
    pub between_tokens: Duration,
}

/// No provider, and the usual patience.
impl Default for ProviderSettings {
    fn default() -> Self {
        let limits = super::providers::StallLimits::default();
        Self {
            anthropic_api_key: None,
            anthropic_base_url: None,
            openai_api_key: None,
            openai_base_url: None,
            azure_endpoint: None,
            azure_api_key: None,
            azure_api_version: None,
            openrouter_api_key: None,
            groq_api_key: None,
            xai_api_key: None,
            mistral_api_key: None,
            deepseek_api_key: None,
            local_endpoint: None,
            mock_script: None,
            models_file: None,
            first_token: limits.first_token,
            between_tokens: limits.between_tokens,
        }
    }
}
