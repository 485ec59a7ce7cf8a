//! The table of models and prices: the one that is compiled in, and the operator's own.

use std::path::Path;

use serde::Deserialize;

use super::{ModelInfo, providers::ProviderName};
use crate::domain::error::{Error, Result};

const COMPILED_IN: &str = include_str!("../models.json");

/// A model as the table has it; prices in US dollars for a million tokens.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub provider: ProviderName,
    pub id: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    context_window: u32,
    #[serde(default)]
    max_output_tokens: u32,
    /// Absent where it is not known.
    #[serde(default)]
    pub input_per_1m: Option<f64>,
    #[serde(default)]
    pub output_per_1m: Option<f64>,
    #[serde(default)]
    cache_read_per_1m: Option<f64>,
    #[serde(default)]
    cache_write_per_1m: Option<f64>,
    #[serde(default)]
    images: bool,
    #[serde(default = "yes")]
    tools: bool,
    #[serde(default)]
    reasoning: bool,
    /// Only the Responses dialect has it.
    #[serde(default)]
    pub responses_api_only: bool,
}

fn yes() -> bool {
    true
}

/// What names the operator's own table.
const SETTING: &str = "OPENCODE_MODELS_FILE";

/// Reads the table that is compiled in, and the operator's over it.
pub(super) fn read(file: Option<&Path>) -> Result<Vec<Entry>> {
    let mut entries: Vec<Entry> = serde_json::from_str(COMPILED_IN).map_err(Error::internal)?;
    let Some(file) = file else { return Ok(entries) };
    let name = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Error::field(SETTING, format!("{name} cannot be read: {error}")))?;
    let own: Vec<Entry> = serde_saphyr::from_str(&text)
        .map_err(|error| Error::field(SETTING, format!("{name} is no list of models: {}", error.without_snippet())))?;
    for entry in own {
        let amounts = [entry.input_per_1m, entry.output_per_1m, entry.cache_read_per_1m, entry.cache_write_per_1m];
        if amounts.into_iter().flatten().any(|amount| !amount.is_finite() || amount < 0.0) {
            return Err(Error::field(SETTING, format!("{name} has a bad price for {}", entry.id)));
        }
        match entries.iter_mut().find(|old| old.provider == entry.provider && old.id == entry.id) {
            Some(old) => *old = entry,
            None => entries.push(entry),
        }
    }
    Ok(entries)
}

impl Entry {
    /// A model that nobody has written anything about.
    pub(super) fn unknown(provider: ProviderName, id: &str) -> Self {
        Self {
            provider,
            id: id.to_owned(),
            name: None,
            context_window: 0,
            max_output_tokens: 0,
            input_per_1m: None,
            output_per_1m: None,
            cache_read_per_1m: None,
            cache_write_per_1m: None,
            images: false,
            tools: true,
            reasoning: false,
            responses_api_only: false,
        }
    }

    /// A model that costs nothing.
    pub(super) fn free(provider: ProviderName, id: &str, context_window: u32, max_output_tokens: u32) -> Self {
        Self {
            context_window,
            max_output_tokens,
            input_per_1m: Some(0.0),
            output_per_1m: Some(0.0),
            ..Self::unknown(provider, id)
        }
    }

    /// The same abilities at another provider, whose prices are its own.
    pub(super) fn elsewhere(&self, provider: ProviderName, id: &str) -> Self {
        Self {
            context_window: self.context_window,
            max_output_tokens: self.max_output_tokens,
            images: self.images,
            tools: self.tools,
            reasoning: self.reasoning,
            ..Self::unknown(provider, id)
        }
    }

    /// A model as a gateway describes it; prices in US dollars for one token, in text.
    pub(super) fn listed(provider: ProviderName, item: &serde_json::Value) -> Option<Self> {
        let has = |list: &serde_json::Value, word| list.as_array().is_some_and(|list| list.iter().any(|it| it == word));
        let size = |value: &serde_json::Value| value.as_u64().and_then(|size| u32::try_from(size).ok()).unwrap_or(0);
        // Negative prices stand for "it depends".
        let price = |key: &str| {
            let text = item["pricing"][key].as_str()?;
            text.parse().ok().map(|price: f64| price * 1e6).filter(|price| price.is_finite() && *price >= 0.0)
        };
        let parameters = &item["supported_parameters"];
        Some(Self {
            name: item["name"].as_str().map(str::to_owned),
            context_window: size(&item["context_length"]).max(size(&item["max_model_len"])),
            max_output_tokens: size(&item["top_provider"]["max_completion_tokens"]),
            input_per_1m: price("prompt"),
            output_per_1m: price("completion"),
            cache_read_per_1m: price("input_cache_read"),
            cache_write_per_1m: price("input_cache_write"),
            images: has(&item["architecture"]["input_modalities"], "image"),
            tools: parameters.is_null() || has(parameters, "tools"),
            reasoning: has(parameters, "reasoning"),
            ..Self::unknown(provider, item["id"].as_str().filter(|id| !id.is_empty())?)
        })
    }

    /// What clients see; `obstacle` says why it cannot be used, if it cannot.
    pub(super) fn info(&self, obstacle: Option<String>) -> ModelInfo {
        let prices = self.input_per_1m.zip(self.output_per_1m);
        let (input, output) = prices.unwrap_or_default();
        let known = |price: Option<f64>| price.filter(|_| prices.is_some());
        let abilities = [
            ("tools", self.tools),
            ("images", self.images),
            ("reasoning", self.reasoning),
            ("caching", self.cache_read_per_1m.is_some()),
        ];
        ModelInfo {
            id: format!("{}/{}", self.provider.as_str(), self.id),
            name: self.name.clone().unwrap_or_else(|| self.id.clone()),
            provider: self.provider.as_str().to_owned(),
            context_window: self.context_window,
            // Some tables repeat the window here; asked for that much, a provider has no room left for the question.
            max_output_tokens: if self.max_output_tokens < self.context_window { self.max_output_tokens } else { 0 },
            price_known: prices.is_some(),
            cost_per_1m_input: input,
            cost_per_1m_output: output,
            cost_per_1m_cache_read: known(self.cache_read_per_1m),
            cost_per_1m_cache_write: known(self.cache_write_per_1m),
            supports_attachments: self.images,
            supports_tools: self.tools,
            supports_reasoning: self.reasoning,
            capabilities: abilities.iter().filter(|(_, has)| *has).map(|(name, _)| (*name).to_owned()).collect(),
            available: obstacle.is_none(),
            unavailable_reason: obstacle,
        }
    }
}
