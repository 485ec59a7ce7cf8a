//! Who speaks the Chat Completions dialect, and how each one's accent differs. A new vendor is one entry here.

/// A vendor that speaks the Chat Completions dialect.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Vendor {
    /// The provider's name, as in `provider/id`.
    pub name: &'static str,
    /// Where it is, up to and including the version; none where the user says so.
    pub base_url: Option<&'static str>,
    /// The variable with its key; none where no key is needed.
    pub key_variable: Option<&'static str>,
    /// How the key is sent.
    pub(super) key_header: KeyHeader,
    /// What the limit of an answer is called.
    pub(super) max_tokens: &'static str,
    /// Whether usage has to be asked for (and may be: some refuse fields that they do not know).
    pub(super) stream_options: bool,
    /// What reasoning is sent back.
    pub(super) reasoning: SendBack,
    /// Whether ids of tool calls must be nine letters and digits.
    pub(super) short_ids: bool,
    /// Whether a user message may come straight after a tool message.
    pub(super) user_after_tool: bool,
    /// Models (by the beginning of their names) that take tools here only when told not to reason.
    pub(super) no_reasoning_with_tools: &'static [&'static str],
    /// Models (by the beginning of their names) that take no tools here at all, only in the Responses dialect.
    pub no_tools: &'static [&'static str],
}

/// How the key is sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeyHeader {
    /// `Authorization: Bearer`.
    Bearer,
    /// `api-key`.
    ApiKey,
}

/// What reasoning is sent back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendBack {
    /// None.
    Nothing,
    /// The words, as `reasoning_content` of every answer of a model that reasons, be they empty.
    Words,
    /// The seal, as `reasoning_details`.
    Details,
}

const STANDARD: Vendor = Vendor {
    name: "",
    base_url: None,
    key_variable: None,
    key_header: KeyHeader::Bearer,
    max_tokens: "max_tokens",
    stream_options: true,
    reasoning: SendBack::Nothing,
    short_ids: false,
    user_after_tool: true,
    no_reasoning_with_tools: &[],
    no_tools: &[],
};

// "Function tools with reasoning_effort are not supported ... use /v1/responses or set reasoning_effort to 'none'" is
// what these answer, even where no effort is asked for; those of the second list refuse 'none' as well.
const OPENAI_NO_REASONING: &[&str] = &["gpt-5.5", "gpt-5.6", "gpt-6"];
const OPENAI_NO_TOOLS: &[&str] = &["gpt-6-astra", "gpt-6.1"];

impl Vendor {
    /// OpenAI itself.
    pub(crate) const OPENAI: Self = Self {
        name: "openai",
        base_url: Some("https://api.openai.com/v1"),
        key_variable: Some("OPENAI_API_KEY"),
        max_tokens: "max_completion_tokens",
        no_reasoning_with_tools: OPENAI_NO_REASONING,
        no_tools: OPENAI_NO_TOOLS,
        ..STANDARD
    };
    /// OpenAI's models at Microsoft.
    pub(crate) const AZURE: Self = Self {
        name: "azure",
        key_variable: Some("AZURE_OPENAI_API_KEY"),
        key_header: KeyHeader::ApiKey,
        max_tokens: "max_completion_tokens",
        no_reasoning_with_tools: OPENAI_NO_REASONING,
        no_tools: OPENAI_NO_TOOLS,
        ..STANDARD
    };
    /// A gateway to many.
    pub(crate) const OPENROUTER: Self = Self {
        name: "openrouter",
        base_url: Some("https://openrouter.ai/api/v1"),
        key_variable: Some("OPENROUTER_API_KEY"),
        reasoning: SendBack::Details,
        ..STANDARD
    };
    /// Groq.
    pub(crate) const GROQ: Self = Self {
        name: "groq",
        base_url: Some("https://api.groq.com/openai/v1"),
        key_variable: Some("GROQ_API_KEY"),
        max_tokens: "max_completion_tokens",
        ..STANDARD
    };
    /// xAI.
    pub(crate) const XAI: Self = Self {
        name: "xai",
        base_url: Some("https://api.x.ai/v1"),
        key_variable: Some("XAI_API_KEY"),
        max_tokens: "max_completion_tokens",
        ..STANDARD
    };
    /// Mistral.
    pub(crate) const MISTRAL: Self = Self {
        name: "mistral",
        base_url: Some("https://api.mistral.ai/v1"),
        key_variable: Some("MISTRAL_API_KEY"),
        stream_options: false,
        short_ids: true,
        user_after_tool: false,
        ..STANDARD
    };
    /// DeepSeek.
    pub(crate) const DEEPSEEK: Self = Self {
        name: "deepseek",
        base_url: Some("https://api.deepseek.com/v1"),
        key_variable: Some("DEEPSEEK_API_KEY"),
        reasoning: SendBack::Words,
        ..STANDARD
    };
    /// A server of the user's own: Ollama, LM Studio, vLLM, llama.cpp.
    pub(crate) const LOCAL: Self = Self { name: "local", ..STANDARD };
}
