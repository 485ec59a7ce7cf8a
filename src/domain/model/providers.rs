//! The providers: what switches each one on, and which of its models comes first.

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::ProviderSettings;
use crate::domain::providers::{Anthropic, Http, Mock, OpenAi, Provider, StallLimits, Vendor};

/// A provider's name, as in `provider/id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ProviderName {
    Anthropic,
    OpenAi,
    Gemini,
    Azure,
    OpenRouter,
    Groq,
    Xai,
    Mistral,
    DeepSeek,
    Local,
    Mock,
}

/// All of them, in the order in which a default is looked for.
pub(super) const ALL: [ProviderName; 11] = [
    ProviderName::Anthropic,
    ProviderName::OpenAi,
    ProviderName::Gemini,
    ProviderName::Azure,
    ProviderName::OpenRouter,
    ProviderName::Groq,
    ProviderName::Xai,
    ProviderName::Mistral,
    ProviderName::DeepSeek,
    ProviderName::Local,
    ProviderName::Mock,
];

impl ProviderName {
    /// The name in `provider/id`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Anthropic => "anthropic",
            Self::OpenAi => "openai",
            Self::Gemini => "gemini",
            Self::Azure => "azure",
            Self::OpenRouter => "openrouter",
            Self::Groq => "groq",
            Self::Xai => "xai",
            Self::Mistral => "mistral",
            Self::DeepSeek => "deepseek",
            Self::Local => "local",
            Self::Mock => "mock",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        ALL.into_iter().find(|provider| provider.as_str() == name)
    }

    /// The models to begin with, best first; ids that the table has, but for a gateway's own choice.
    pub(super) fn preferred(self) -> &'static [&'static str] {
        match self {
            Self::Anthropic => &["claude-opus-5-5", "claude-sonnet-5-5", "claude-opus-5"],
            Self::OpenAi => &["gpt-6-sol", "gpt-5.6-sol", "gpt-5.2"],
            Self::OpenRouter => &["openrouter/auto"],
            Self::Groq => &["openai/gpt-oss-120b"],
            Self::Xai => &["grok-4.7", "grok-4.5"],
            Self::Mistral => &["mistral-large-4", "mistral-medium-latest"],
            Self::DeepSeek => &["deepseek-v4-pro", "deepseek-flash"],
            // The first of what there is; a deployment's name cannot be guessed.
            Self::Gemini | Self::Azure | Self::Local | Self::Mock => &[],
        }
    }

    /// Small and cheap models for little jobs such as titles, best first; ids that the table has. They are asked
    /// without tools, so that what takes none in our dialect will do.
    pub(super) fn small(self) -> &'static [&'static str] {
        match self {
            Self::Anthropic => &["claude-haiku-5-5", "claude-haiku-4-5"],
            Self::OpenAi => &["gpt-5.4-nano", "gpt-5-nano", "gpt-4.1-mini"],
            Self::Groq => &["openai/gpt-oss-20b"],
            Self::Xai => &["grok-code-fast-1"],
            Self::Mistral => &["ministral-8b-latest", "mistral-small-latest"],
            Self::DeepSeek => &["deepseek-flash"],
            // Whose deployments, lists and machines are the user's own; what a mock says is no title.
            Self::Gemini | Self::Azure | Self::OpenRouter | Self::Local | Self::Mock => &[],
        }
    }

    fn vendor(self) -> Option<&'static Vendor> {
        match self {
            Self::OpenAi => Some(&Vendor::OPENAI),
            Self::Azure => Some(&Vendor::AZURE),
            Self::OpenRouter => Some(&Vendor::OPENROUTER),
            Self::Groq => Some(&Vendor::GROQ),
            Self::Xai => Some(&Vendor::XAI),
            Self::Mistral => Some(&Vendor::MISTRAL),
            Self::DeepSeek => Some(&Vendor::DEEPSEEK),
            Self::Local => Some(&Vendor::LOCAL),
            Self::Anthropic | Self::Gemini | Self::Mock => None,
        }
    }

    /// Whether a model of this name takes no tools in the dialect that is spoken with this provider.
    pub(super) fn needs_responses(self, id: &str) -> bool {
        self.vendor().is_some_and(|vendor| vendor.no_tools.iter().any(|start| id.starts_with(start)))
    }
}

/// A provider as the settings make it.
pub(super) struct Switch {
    /// Why it is off, in words that name what to set; none where it is on.
    pub obstacle: Option<String>,
    /// The user said where it is, so that it may have models which no table knows.
    pub custom: bool,
    /// How to ask it, where it is on (`mock` is asked by model, see [`mock`]).
    pub provider: Option<Provider>,
}

/// How a provider stands with these settings.
pub(super) fn switch(name: ProviderName, settings: &ProviderSettings, http: &Http) -> Switch {
    let limits = limits(settings);
    let (key, base_url) = match name {
        ProviderName::Anthropic => (&settings.anthropic_api_key, &settings.anthropic_base_url),
        ProviderName::OpenAi => (&settings.openai_api_key, &settings.openai_base_url),
        ProviderName::Gemini => return Switch::off("gemini is not served yet"),
        ProviderName::Azure => (&settings.azure_api_key, &settings.azure_endpoint),
        ProviderName::OpenRouter => (&settings.openrouter_api_key, &None),
        ProviderName::Groq => (&settings.groq_api_key, &None),
        ProviderName::Xai => (&settings.xai_api_key, &None),
        ProviderName::Mistral => (&settings.mistral_api_key, &None),
        ProviderName::DeepSeek => (&settings.deepseek_api_key, &None),
        ProviderName::Local => {
            let Some(endpoint) = filled(settings.local_endpoint.as_deref()) else {
                return Switch::off("set LOCAL_ENDPOINT");
            };
            return Switch::on(openai(&Vendor::LOCAL, None, Some(endpoint), None, http, limits), true);
        }
        ProviderName::Mock => {
            return Switch { obstacle: None, custom: false, provider: None };
        }
    };
    let base_url = filled(base_url.as_deref());
    let custom = base_url.is_some();
    // A line feed at the end comes with many a secrets file.
    let key = filled(key.as_ref().map(ExposeSecret::expose_secret)).map(SecretString::from);
    let Some(key) = key else {
        let variable = name.vendor().and_then(|vendor| vendor.key_variable).unwrap_or("ANTHROPIC_API_KEY");
        return match (name, custom) {
            (ProviderName::Azure, false) => Switch::off("set AZURE_OPENAI_ENDPOINT and AZURE_OPENAI_API_KEY"),
            _ => Switch::off(&format!("set {variable}")),
        };
    };
    match name.vendor() {
        None => Switch::on(Provider::Anthropic(Anthropic { http: http.clone(), base_url, key, limits }), custom),
        Some(_) if name == ProviderName::Azure && !custom => Switch::off("set AZURE_OPENAI_ENDPOINT"),
        Some(vendor) => {
            // `v1` and its like name the undated API, which takes no version.
            let version = filled(settings.azure_api_version.as_deref())
                .filter(|version| name == ProviderName::Azure && version.starts_with(|c: char| c.is_ascii_digit()));
            Switch::on(openai(vendor, Some(key), base_url, version, http, limits), custom)
        }
    }
}

fn filled(text: Option<&str>) -> Option<String> {
    text.map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
}

fn openai(
    vendor: &'static Vendor,
    key: Option<SecretString>,
    base_url: Option<String>,
    api_version: Option<String>,
    http: &Http,
    limits: StallLimits,
) -> Provider {
    Provider::OpenAi(OpenAi { http: http.clone(), vendor, base_url, key, api_version, limits })
}

impl Switch {
    fn on(provider: Provider, custom: bool) -> Self {
        Self { obstacle: None, custom, provider: Some(provider) }
    }

    fn off(obstacle: &str) -> Self {
        Self { obstacle: Some(obstacle.to_owned()), custom: false, provider: None }
    }
}

/// The scripted model, if there is a script.
pub(super) fn scripted(settings: &ProviderSettings) -> Option<Mock> {
    settings.mock_script.clone().map(|file| Mock::script(file, limits(settings)))
}

/// The limits of silence.
pub(super) fn limits(settings: &ProviderSettings) -> StallLimits {
    StallLimits { first_token: settings.first_token, between_tokens: settings.between_tokens }
}
