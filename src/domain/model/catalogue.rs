//! The catalogue: which models there are, and how to ask one.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use super::{
    ModelInfo, Price, ProviderSettings,
    discovery::Discovery,
    providers::{self, ALL, ProviderName, Switch},
    table::{self, Entry},
};
use crate::domain::{
    error::{Code, Error, Result},
    providers::{Http, Mock, OpenAi, Provider},
};

/// A model that can be asked.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    /// What is known of it.
    pub info: ModelInfo,
    /// What it costs, where that is known.
    pub price: Option<Price>,
    /// How to ask it.
    pub provider: Provider,
    /// The provider's own id of it.
    pub model_id: String,
}

/// All models. Clones share what was discovered.
#[derive(Clone)]
pub(crate) struct Catalogue(Arc<Inner>);

struct Inner {
    settings: ProviderSettings,
    http: Http,
    // Parsed when first asked for: a start must not pay for it.
    table: OnceLock<Vec<Entry>>,
    local: Discovery,
    openrouter: Discovery,
    scripted: Option<Mock>,
}

impl Catalogue {
    /// A catalogue for these settings. It makes no connection. Fails where the operator's own models file cannot be
    /// read or understood.
    pub(crate) fn new(settings: ProviderSettings) -> Result<Self> {
        let table = OnceLock::new();
        if let Some(file) = &settings.models_file {
            let _ = table.set(table::read(Some(file))?);
        }
        Ok(Self(Arc::new(Inner {
            scripted: providers::scripted(&settings),
            settings,
            http: Http::default(),
            table,
            local: Discovery::local(),
            openrouter: Discovery::openrouter(),
        })))
    }

    /// Makes the HTTP client where a provider that needs it is on, so that the first turn does not wait for the system's
    /// certificates to be read. Blocks.
    pub(crate) fn warm_up(&self) {
        let is_asked_by_http = |name| match self.switch(name).provider {
            Some(Provider::Anthropic(_) | Provider::OpenAi(_)) => true,
            Some(Provider::Mock(_)) | None => false,
        };
        if ALL.into_iter().any(is_asked_by_http) {
            // Whoever needs it first tells of a failure.
            let _ = self.0.http.client();
        }
    }

    /// Every known model, by provider, those that are not available too. A `provider` that does not exist is a bad
    /// field of that name; one that cannot be reached lists nothing.
    pub(crate) async fn list(&self, provider: Option<&str>) -> Result<Vec<ModelInfo>> {
        let wanted: Vec<ProviderName> = match provider {
            Some(name) => vec![ProviderName::named(name).ok_or_else(|| {
                let names: Vec<&str> = ALL.iter().map(|provider| provider.as_str()).collect();
                Error::field("provider", format!("\"{name}\" is not a provider; take one of {}", names.join(", ")))
            })?],
            None => ALL.to_vec(),
        };
        let listed = wanted.into_iter().map(|name| async move {
            let switch = self.switch(name);
            let entries = self.entries(name, &switch).await?;
            Ok::<_, Error>(entries.iter().map(|entry| self.info(entry, &switch)).collect::<Vec<_>>())
        });
        let lists = futures_util::future::try_join_all(listed).await?;
        Ok(lists.into_iter().flatten().collect())
    }

    /// The model of this name: `provider/id` first, then a bare id that only one provider has. A name that is not
    /// known is `invalid_argument` and names the nearest; a model that is switched off is `no_model` and says what to
    /// set.
    pub(crate) async fn resolve(&self, name: &str) -> Result<Model> {
        if let Some((provider, id)) = name.split_once('/')
            && let Some(provider) = ProviderName::named(provider)
            && let Some(model) = self.find(provider, id).await?
        {
            return Ok(model);
        }
        let mut owners = Vec::new();
        for provider in ALL.into_iter().filter(|provider| *provider != ProviderName::Mock) {
            let switch = self.switch(provider);
            // Nobody waits for a gateway's list over a name that it was not asked by.
            let known = match provider {
                ProviderName::OpenRouter => self.table()?.iter().any(|it| it.provider == provider && it.id == name),
                _ => self.entries(provider, &switch).await?.iter().any(|entry| entry.id == name),
            };
            if known {
                owners.push(provider);
            }
        }
        match owners.as_slice() {
            [provider] => self.find(*provider, name).await?.ok_or_else(|| Error::not_found("model", name)),
            [] => Err(self.unknown(name).await?),
            several => {
                let names: Vec<String> = several.iter().map(|it| format!("{}/{name}", it.as_str())).collect();
                let detail = format!("model \"{name}\" is ambiguous; name one of {}", names.join(", "));
                Err(Error::new(Code::InvalidArgument, detail))
            }
        }
    }

    /// The model for whoever names none: the best of the first provider that is on, mock excepted. None where no
    /// provider is on, or only one whose models cannot be guessed.
    pub(crate) async fn default_model(&self) -> Option<Model> {
        for provider in ALL.into_iter().filter(|provider| *provider != ProviderName::Mock) {
            let switch = self.switch(provider);
            if switch.provider.is_none() {
                continue;
            }
            let preferred = provider.preferred().iter().map(|id| (*id).to_owned());
            // A gateway is not asked for its list just to begin with something.
            let others = match provider {
                ProviderName::OpenRouter => Vec::new(),
                _ => self.entries(provider, &switch).await.unwrap_or_default(),
            };
            let others = others.into_iter().filter(|entry| self.info(entry, &switch).supports_tools);
            for id in preferred.chain(others.map(|entry| entry.id)) {
                if let Ok(Some(model)) = self.find(provider, &id).await {
                    return Some(model);
                }
            }
        }
        None
    }

    /// The model for little jobs beside a turn of `model`: the one that is `named`, else a small one of the same
    /// provider. None where `none` is named, where the turn is a mock's, and where nobody knows whether there is one,
    /// such as at an address of the user's own.
    pub(crate) async fn small_model(&self, model: &Model, named: Option<&str>) -> Option<Model> {
        let name = ProviderName::named(&model.info.provider).filter(|name| *name != ProviderName::Mock)?;
        match named {
            Some("none") => None,
            Some(named) => match self.resolve(named).await {
                Ok(model) => Some(model),
                Err(error) => {
                    tracing::warn!(%error, "OPENCODE_TITLE_MODEL cannot be used");
                    None
                }
            },
            None if self.switch(name).custom => None,
            None => {
                for id in name.small() {
                    if let Ok(Some(model)) = self.find(name, id).await {
                        return Some(model);
                    }
                }
                None
            }
        }
    }

    fn table(&self) -> Result<&[Entry]> {
        if let Some(table) = self.0.table.get() {
            return Ok(table);
        }
        let table = table::read(None)?;
        Ok(self.0.table.get_or_init(|| table))
    }

    fn switch(&self, name: ProviderName) -> Switch {
        providers::switch(name, &self.0.settings, &self.0.http)
    }

    fn info(&self, entry: &Entry, switch: &Switch) -> ModelInfo {
        entry.info(switch.obstacle.clone().or_else(|| self.obstacle(entry, switch)))
    }

    /// Why this model cannot be used although its provider is on.
    fn obstacle(&self, entry: &Entry, switch: &Switch) -> Option<String> {
        // A proxy may well translate.
        let translated = switch.custom && entry.provider != ProviderName::Azure;
        if !translated && (entry.responses_api_only || entry.provider.needs_responses(&entry.id)) {
            return Some("it needs the Responses API, which is not served yet".into());
        }
        let scriptless = entry.provider == ProviderName::Mock && entry.id == "script" && self.0.scripted.is_none();
        scriptless.then(|| "set OPENCODE_MOCK_SCRIPT".into())
    }

    /// What is known of a provider's models: the table's, and what it lists itself.
    async fn entries(&self, name: ProviderName, switch: &Switch) -> Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = self.table()?.iter().filter(|entry| entry.provider == name).cloned().collect();
        if name == ProviderName::Mock {
            entries.extend(["demo", "script"].map(|id| Entry::free(name, id, 200_000, 32_000)));
        }
        for listed in self.discovered(name, switch).await.unwrap_or_default() {
            if !entries.iter().any(|entry| entry.id == listed.id) {
                entries.push(listed);
            }
        }
        Ok(entries)
    }

    async fn discovered(&self, name: ProviderName, switch: &Switch) -> Option<Vec<Entry>> {
        let provider = listing(switch)?;
        match name {
            ProviderName::Local => self.0.local.list(provider).await,
            ProviderName::OpenRouter => self.0.openrouter.list(provider).await,
            ProviderName::Anthropic
            | ProviderName::OpenAi
            | ProviderName::Gemini
            | ProviderName::Azure
            | ProviderName::Groq
            | ProviderName::Xai
            | ProviderName::Mistral
            | ProviderName::DeepSeek
            | ProviderName::Mock => None,
        }
    }

    /// A provider's model; `None` where it does not have it.
    async fn find(&self, name: ProviderName, id: &str) -> Result<Option<Model>> {
        if id.trim().is_empty() {
            return Ok(None);
        }
        let switch = self.switch(name);
        let known = self.entries(name, &switch).await?.into_iter().find(|entry| entry.id == id);
        let entry = match known {
            Some(entry) => Some(entry),
            None => self.taken_as_is(name, id, &switch).await?,
        };
        let Some(entry) = entry else { return Ok(None) };
        let info = self.info(&entry, &switch);
        let provider = match (name, id) {
            (ProviderName::Mock, "script") => self.0.scripted.clone().map(Provider::Mock),
            (ProviderName::Mock, _) => Some(Provider::Mock(Mock::demo(providers::limits(&self.0.settings)))),
            _ => switch.provider,
        };
        match (provider, &info.unavailable_reason) {
            (Some(provider), None) => Ok(Some(Model { price: info.price(), info, provider, model_id: id.to_owned() })),
            (_, reason) => {
                let reason = reason.as_deref().unwrap_or("its provider is off");
                Err(Error::new(Code::NoModel, format!("model \"{}\" is not available: {reason}", info.id)))
            }
        }
    }

    /// A model that no list has, at a provider whose models no list can have.
    async fn taken_as_is(&self, name: ProviderName, id: &str, switch: &Switch) -> Result<Option<Entry>> {
        let open = match name {
            // Deployments are named by their owners; a gateway's list need not be complete.
            ProviderName::Azure | ProviderName::OpenRouter => true,
            // What a local server lists is all it has, if it can be asked.
            ProviderName::Local => self.discovered(name, switch).await.is_none(),
            ProviderName::Gemini | ProviderName::Mock => false,
            ProviderName::Anthropic
            | ProviderName::OpenAi
            | ProviderName::Groq
            | ProviderName::Xai
            | ProviderName::Mistral
            | ProviderName::DeepSeek => switch.custom,
        };
        if !open {
            return Ok(None);
        }
        if name == ProviderName::Local {
            return Ok(Some(Entry::free(name, id, 0, 0)));
        }
        // The same model elsewhere tells what it can do, if not what it costs here.
        let bare = id.rsplit('/').next().unwrap_or(id);
        let twin = self.table()?.iter().find(|entry| entry.id == bare);
        Ok(Some(twin.map_or_else(|| Entry::unknown(name, id), |twin| twin.elsewhere(name, id))))
    }

    async fn unknown(&self, name: &str) -> Result<Error> {
        // A name that begins with a provider is meant to be one of its models.
        let provider = name.split_once('/').and_then(|(provider, _)| ProviderName::named(provider));
        let known = self.list(provider.map(ProviderName::as_str)).await?;
        let wanted = name.to_lowercase();
        let bare = |name: &'_ str| name.split_once('/').map_or(name, |(_, id)| id).to_owned();
        // Whole with whole and bare with bare: a short name is like the beginning of any long one.
        let likeness = |info: &ModelInfo| {
            let whole = strsim::jaro_winkler(&wanted, &info.id);
            whole.max(strsim::normalized_damerau_levenshtein(&bare(&wanted), &bare(&info.id)))
        };
        let nearest = known
            .iter()
            .map(|info| (likeness(info), info))
            // Of equals, one that can be used.
            .max_by(|a, b| a.0.total_cmp(&b.0).then(a.1.available.cmp(&b.1.available)));
        let hint = nearest.map(|(_, info)| format!("; did you mean \"{}\"?", info.id)).unwrap_or_default();
        Ok(Error::new(Code::InvalidArgument, format!("model \"{name}\" is not known{hint}")))
    }
}

fn listing(switch: &Switch) -> Option<&OpenAi> {
    match &switch.provider {
        Some(Provider::OpenAi(provider)) => Some(provider),
        Some(Provider::Anthropic(_) | Provider::Mock(_)) | None => None,
    }
}

impl fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Catalogue").field(&self.0.settings).finish()
    }
}
