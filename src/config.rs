//! Settings: flags, then environment, then defaults. The only reader of the environment.

mod access;
mod lifecycle;
mod limits;
mod permissions;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use secrecy::SecretString;
use sha2::{Digest, Sha256};

pub use access::Access;
pub use lifecycle::Lifecycle;
pub use limits::RequestLimits;
pub use permissions::Permissions;

use crate::{
    domain::{Budgets, Limits, Picodollars, ProviderSettings, Retention, Settings, VersionLimits},
    keeper,
};

/// A coding agent behind one port: REST with SSE, gRPC and gRPC-Web, one session per server.
///
/// Without a command it serves. Every setting is a flag or a variable; flags win, and an empty variable is as good as none.
#[derive(Debug, Parser)]
#[command(name = "opencode-api", version, max_term_width = 120)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The settings.
    #[command(flatten)]
    pub config: Config,
}

/// What the binary can do.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Command {
    /// Serve (the default).
    Serve,
    /// Ask the running server for its health; exit code 0 if it serves.
    Healthcheck,
    /// Print the OpenAPI document.
    Openapi,
}

/// Settings of the server.
#[derive(Clone, Debug, Args)]
pub struct Config {
    /// First listener. Both answer the same; set both to one number for a single listener, 0 for a free port.
    #[arg(long, env = "GRPC_PORT", default_value_t = 8080, global = true)]
    pub grpc_port: u16,
    /// Second listener.
    #[arg(long, env = "HTTP_PORT", default_value_t = 8081, global = true)]
    pub http_port: u16,
    /// Address to bind. Beyond loopback a token is asked for: OPENCODE_API_TOKEN, or one that is made at each start.
    #[arg(long, env = "OPENCODE_HOST", default_value = "127.0.0.1", global = true)]
    pub host: IpAddr,
    /// The folder the agent works in; made if missing.
    #[arg(long, env = "OPENCODE_WORKSPACE", default_value = "./workspace", global = true)]
    pub workspace: PathBuf,
    /// Where the log and the versions are kept; never inside the workspace. Default: a folder per workspace below the user's data
    /// directory.
    #[arg(long, env = "OPENCODE_DATA_DIR", global = true)]
    pub data_dir: Option<PathBuf>,
    /// The model, as provider/id. Default: the first available that has a key. `mock/demo` needs none.
    #[arg(long, env = "OPENCODE_MODEL", global = true)]
    pub model: Option<String>,
    /// The model that makes titles, as provider/id, or `none`. Default: the small one of the turn's provider, where that
    /// is at its own address; else titles are the first words.
    #[arg(long, env = "OPENCODE_TITLE_MODEL", global = true)]
    pub title_model: Option<String>,
    /// Log more.
    #[arg(long, env = "OPENCODE_DEBUG", default_value_t = false, global = true,
          action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_parser = clap::builder::BoolishValueParser::new())]
    pub debug: bool,
    /// What is logged, as tracing's directives; wins over --debug.
    #[arg(long, env = "RUST_LOG", global = true)]
    pub log: Option<String>,
    /// Origins of web pages that may call, separated by commas, or `*`. Default: none.
    #[arg(long, env = "OPENCODE_CORS_ORIGINS", value_delimiter = ',', global = true)]
    pub cors_origins: Vec<String>,
    /// Seconds after which a stream ends whose reader takes nothing, and an upload that sends nothing.
    #[arg(long, env = "OPENCODE_STALL_SECONDS", default_value_t = 60, global = true,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub stall_seconds: u64,
    /// Events older than this many hours are dropped from the log.
    #[arg(long, env = "OPENCODE_RETENTION_HOURS", default_value_t = 7 * 24, global = true)]
    pub retention_hours: u64,
    /// The oldest events are dropped while all together have more bytes than this.
    #[arg(long, env = "OPENCODE_RETENTION_BYTES", default_value_t = 256 * 1024 * 1024, global = true)]
    pub retention_bytes: u64,
    /// Most model calls of a turn, those for titles and summaries included; a message's `budget` may ask for fewer.
    #[arg(long, env = "OPENCODE_TURN_MODEL_CALLS", default_value_t = 100, global = true,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub turn_model_calls: u64,
    /// Most seconds of a turn; a call or a tool that runs then is ended.
    #[arg(long, env = "OPENCODE_TURN_SECONDS", default_value_t = 30 * 60, global = true,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub turn_seconds: u64,
    /// Most tokens of all calls of a turn, input and output together. Default: no limit.
    #[arg(long, env = "OPENCODE_TURN_TOKENS", global = true, value_parser = clap::value_parser!(u64).range(1..))]
    pub turn_tokens: Option<u64>,
    /// Most US dollars of a turn, such as 0.50; models without a known price are refused then. Default: no limit.
    #[arg(long, env = "OPENCODE_TURN_USD", global = true)]
    pub turn_usd: Option<Picodollars>,
    /// Most model calls of all turns of the session. Default: no limit.
    #[arg(long, env = "OPENCODE_SESSION_MODEL_CALLS", global = true,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub session_model_calls: Option<u64>,
    /// Most seconds of all turns of the session. Default: no limit.
    #[arg(long, env = "OPENCODE_SESSION_SECONDS", global = true, value_parser = clap::value_parser!(u64).range(1..))]
    pub session_seconds: Option<u64>,
    /// Most tokens of all calls of the session, input and output together. Default: no limit.
    #[arg(long, env = "OPENCODE_SESSION_TOKENS", global = true, value_parser = clap::value_parser!(u64).range(1..))]
    pub session_tokens: Option<u64>,
    /// Most US dollars of the session, such as 20; models without a known price are refused then. Default: no limit.
    #[arg(long, env = "OPENCODE_SESSION_USD", global = true)]
    pub session_usd: Option<Picodollars>,
    /// Most seconds that one look at the workspace takes; what it did not reach its version says nothing about.
    #[arg(long, env = "OPENCODE_VERSION_SECONDS", default_value_t = 60, global = true,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub version_seconds: u64,
    /// Seconds that a turn waits for versions of the workspace at most, before its first tool that writes and at its end
    /// together; what is not there by then follows by itself. 0: it never waits.
    #[arg(long, env = "OPENCODE_VERSION_WAIT_SECONDS", default_value_t = 2, global = true)]
    pub version_wait_seconds: u64,
    /// Seconds for which listening for changes stands for a look at every file. 0: every look is at every file.
    #[arg(long, env = "OPENCODE_VERSION_WATCH_SECONDS", default_value_t = 60, global = true)]
    pub version_watch_seconds: u64,
    /// Most bytes of contents that one look at the workspace stores. Files over 10 MiB, of which only the hash is kept, come
    /// last and have the time as their only limit.
    #[arg(long, env = "OPENCODE_VERSION_BYTES", default_value_t = 4 * 1024 * 1024 * 1024, global = true)]
    pub version_bytes: u64,
    /// Newest versions of the workspace that are kept, the session's baseline beside them.
    #[arg(long, env = "OPENCODE_VERSIONS_KEPT", default_value_t = 1000, global = true,
          value_parser = clap::value_parser!(u64).range(2..))]
    pub versions_kept: u64,
    /// Above so many bytes of their contents the older half of the versions is given up.
    #[arg(long, env = "OPENCODE_VERSIONS_BYTES", default_value_t = 2 * 1024 * 1024 * 1024, global = true)]
    pub versions_bytes: u64,
    /// Who may come in.
    #[command(flatten)]
    pub access: Access,
    /// What clients may ask for at most.
    #[command(flatten)]
    pub requests: RequestLimits,
    /// What the agent may do.
    #[command(flatten)]
    pub permissions: Permissions,
    /// How the server ends, and when it counts as wedged.
    #[command(flatten)]
    pub lifecycle: Lifecycle,
    /// Keys and addresses of model providers.
    #[command(flatten)]
    pub providers: Providers,
}

/// Keys and addresses of model providers.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Model providers")]
pub struct Providers {
    /// Key for anthropic/*.
    #[arg(long, env = "ANTHROPIC_API_KEY", hide_env_values = true, global = true)]
    pub anthropic_api_key: Option<SecretString>,
    /// Another address of Anthropic's API.
    #[arg(long, env = "ANTHROPIC_BASE_URL", global = true)]
    pub anthropic_base_url: Option<String>,
    /// Key for openai/*.
    #[arg(long, env = "OPENAI_API_KEY", hide_env_values = true, global = true)]
    pub openai_api_key: Option<SecretString>,
    /// Another address of OpenAI's API.
    #[arg(long, env = "OPENAI_BASE_URL", global = true)]
    pub openai_base_url: Option<String>,
    /// Address of an Azure OpenAI resource.
    #[arg(long, env = "AZURE_OPENAI_ENDPOINT", global = true)]
    pub azure_endpoint: Option<String>,
    /// Key for azure/*.
    #[arg(long, env = "AZURE_OPENAI_API_KEY", hide_env_values = true, global = true)]
    pub azure_api_key: Option<SecretString>,
    /// API version of Azure OpenAI.
    #[arg(long, env = "AZURE_OPENAI_API_VERSION", global = true)]
    pub azure_api_version: Option<String>,
    /// Key for openrouter/*.
    #[arg(long, env = "OPENROUTER_API_KEY", hide_env_values = true, global = true)]
    pub openrouter_api_key: Option<SecretString>,
    /// Key for groq/*.
    #[arg(long, env = "GROQ_API_KEY", hide_env_values = true, global = true)]
    pub groq_api_key: Option<SecretString>,
    /// Key for xai/*.
    #[arg(long, env = "XAI_API_KEY", hide_env_values = true, global = true)]
    pub xai_api_key: Option<SecretString>,
    /// Key for mistral/*.
    #[arg(long, env = "MISTRAL_API_KEY", hide_env_values = true, global = true)]
    pub mistral_api_key: Option<SecretString>,
    /// Key for deepseek/*.
    #[arg(long, env = "DEEPSEEK_API_KEY", hide_env_values = true, global = true)]
    pub deepseek_api_key: Option<SecretString>,
    /// Address of a local OpenAI-compatible server (Ollama, LM Studio, vLLM, llama.cpp).
    #[arg(long, env = "LOCAL_ENDPOINT", global = true)]
    pub local_endpoint: Option<String>,
    /// The script that mock/script plays (YAML or JSON).
    #[arg(long, env = "OPENCODE_MOCK_SCRIPT", global = true)]
    pub mock_script: Option<PathBuf>,
    /// A JSON or YAML file of models (prices, limits) that adds to and overrides the built-in table.
    #[arg(long, env = "OPENCODE_MODELS_FILE", global = true)]
    pub models_file: Option<PathBuf>,
    /// Seconds without a first token after which a model call counts as stalled.
    #[arg(long, env = "OPENCODE_FIRST_TOKEN_SECONDS", default_value_t = 600, global = true,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub first_token_seconds: u64,
    /// Seconds between tokens after which a model call counts as stalled.
    #[arg(long, env = "OPENCODE_BETWEEN_TOKENS_SECONDS", default_value_t = 120, global = true,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub between_tokens_seconds: u64,
}

/// Variables that no child process gets and that nobody sees in this one, whether this server reads them or not.
pub const SECRET_VARIABLES: [&str; 12] = [
    "ANTHROPIC_API_KEY",
    "OPENAI_API_KEY",
    "AZURE_OPENAI_API_KEY",
    "OPENROUTER_API_KEY",
    "GROQ_API_KEY",
    "XAI_API_KEY",
    "MISTRAL_API_KEY",
    "DEEPSEEK_API_KEY",
    "GEMINI_API_KEY",
    "OPENCODE_API_TOKEN",
    "OPENCODE_API_TOKENS_FILE",
    "OPENCODE_REPLY_TOKEN",
];

/// The flags of those variables.
pub fn secret_flags() -> Vec<String> {
    let command = Cli::command();
    let is_secret = |arg: &&clap::Arg| {
        arg.get_env().and_then(|name| name.to_str()).is_some_and(|name| SECRET_VARIABLES.contains(&name))
    };
    command.get_arguments().filter(is_secret).filter_map(|arg| Some(format!("--{}", arg.get_long()?))).collect()
}

/// A time that is set in seconds. Beyond ten years it is ten years, which no clock here overflows by.
pub(crate) fn seconds(count: u64) -> Duration {
    Duration::from_secs(count.min(10 * 365 * 24 * 3600))
}

/// Whether this process is a keeper, which has no settings: see [`keeper`].
pub fn is_keeper() -> bool {
    std::env::args_os().nth(1).is_some_and(|argument| argument == keeper::ARGUMENT)
}

/// The arguments of this process, without the program's name.
pub fn arguments() -> Vec<std::ffi::OsString> {
    std::env::args_os().skip(1).collect()
}

impl Cli {
    /// The command line and the environment of this process; what is wrong with them ends it with a sentence. A variable
    /// that is set to nothing counts as not set: that is how compose files pass on what their user has left out.
    pub fn read() -> Self {
        let unset = |arg: clap::Arg| match arg.get_env().and_then(std::env::var_os) {
            Some(value) if value.is_empty() => arg.env(None::<&str>),
            Some(_) | None => arg,
        };
        let matches = Self::command().mut_args(unset).get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

impl Config {
    /// What the domain needs of the settings. Fails where no folder for data can be told.
    pub fn settings(&self) -> Result<Settings, String> {
        let data_dir = match &self.data_dir {
            // Commands run elsewhere, and are given paths in it.
            Some(folder) => std::path::absolute(folder)
                .map_err(|error| format!("OPENCODE_DATA_DIR: {} cannot be made absolute: {error}", folder.display()))?,
            None => default_data_dir(&self.workspace)?,
        };
        let text = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
        let providers = &self.providers;
        Ok(Settings {
            workspace: self.workspace.clone(),
            data_dir,
            model: text(&self.model),
            title_model: text(&self.title_model),
            providers: ProviderSettings {
                anthropic_api_key: providers.anthropic_api_key.clone(),
                anthropic_base_url: text(&providers.anthropic_base_url),
                openai_api_key: providers.openai_api_key.clone(),
                openai_base_url: text(&providers.openai_base_url),
                azure_endpoint: text(&providers.azure_endpoint),
                azure_api_key: providers.azure_api_key.clone(),
                azure_api_version: text(&providers.azure_api_version),
                openrouter_api_key: providers.openrouter_api_key.clone(),
                groq_api_key: providers.groq_api_key.clone(),
                xai_api_key: providers.xai_api_key.clone(),
                mistral_api_key: providers.mistral_api_key.clone(),
                deepseek_api_key: providers.deepseek_api_key.clone(),
                local_endpoint: text(&providers.local_endpoint),
                mock_script: providers.mock_script.clone(),
                models_file: providers.models_file.clone(),
                first_token: seconds(providers.first_token_seconds),
                between_tokens: seconds(providers.between_tokens_seconds),
            },
            secret_variables: SECRET_VARIABLES.map(str::to_owned).to_vec(),
            retention: Retention {
                age: seconds(self.retention_hours.saturating_mul(3600)),
                bytes: self.retention_bytes,
            },
            versions: VersionLimits {
                time: seconds(self.version_seconds),
                bytes: self.version_bytes,
                wait: seconds(self.version_wait_seconds),
                watch: seconds(self.version_watch_seconds),
                kept: self.versions_kept,
                stored_bytes: self.versions_bytes,
            },
            budgets: Budgets {
                turn: Limits {
                    model_calls: Some(self.turn_model_calls),
                    seconds: Some(self.turn_seconds),
                    tokens: self.turn_tokens,
                    usd: self.turn_usd,
                },
                session: Limits {
                    model_calls: self.session_model_calls,
                    seconds: self.session_seconds,
                    tokens: self.session_tokens,
                    usd: self.session_usd,
                },
            },
            max_file_bytes: self.requests.max_file_bytes,
            max_text_bytes: self.requests.max_text_bytes,
            max_attachment_bytes: self.requests.max_attachment_bytes,
            request_limits: {
                let mut limits = self.requests.by_name();
                limits.insert("stall_s".into(), self.stall_seconds);
                limits.insert("drain_s".into(), self.lifecycle.drain_timeout);
                limits
            },
            permissions: self.permissions.settings()?,
            access: self.access.settings()?,
            watchdog: self.lifecycle.patience(),
        })
    }

    /// What is logged.
    pub fn log_directives(&self) -> &str {
        match &self.log {
            Some(directives) if !directives.is_empty() => directives,
            _ if self.debug => "info,opencode_api=debug",
            _ => "info",
        }
    }
}

/// One folder per workspace path below the user's data directory.
fn default_data_dir(workspace: &Path) -> Result<PathBuf, String> {
    // Made before it is named: the same folder has to get the same log at the next start, whatever links lead to it.
    let absolute = std::fs::create_dir_all(workspace)
        .and_then(|()| workspace.canonicalize())
        .map_err(|error| format!("OPENCODE_WORKSPACE: {} cannot be used: {error}", workspace.display()))?;
    let base = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| {
            std::env::home_dir().filter(|home| !home.as_os_str().is_empty()).map(|home| home.join(".local/share"))
        })
        .ok_or("no home folder is known here: set OPENCODE_DATA_DIR to a folder for the log")?;
    // A hash that is the same in every build: the folder must be found again.
    let digest = Sha256::digest(absolute.as_os_str().as_encoded_bytes());
    let hash: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let name: String = absolute
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() || letter == '-' { letter } else { '_' })
        .take(40)
        .collect();
    Ok(base.join("opencode-api").join(format!("{name}-{hash}")))
}
