//! The HTTP client of the providers, and what its errors mean.

use std::{
    error::Error as _,
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::StreamExt;
use jiff::Timestamp;
use reqwest::{Client, Response, StatusCode, header::HeaderMap, redirect::Policy};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::{ProviderError, ProviderErrorKind};
use crate::domain::part::head;

/// Most bytes of a provider's own message that are shown.
const MESSAGE_LIMIT: usize = 2_000;
/// Most bytes of an answer that is no stream which are read.
const BODY_LIMIT: usize = 64 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The HTTP client, made when it is first needed, since reading the system's certificates takes a while. Clones
/// share it.
#[derive(Clone, Default)]
pub(crate) struct Http(Arc<OnceLock<Result<Client, String>>>);

impl Http {
    /// The client. It fails only where TLS cannot be set up at all.
    pub(crate) fn client(&self) -> Result<&Client, ProviderError> {
        self.0
            .get_or_init(|| build().map_err(|error| root_cause(&error)))
            .as_ref()
            .map_err(|cause| ProviderError::rejected(format!("no connection can be made: {cause}")))
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Http")
    }
}

/// No timeout in all (it would cut long answers), no redirects (they would carry keys elsewhere).
fn build() -> reqwest::Result<Client> {
    // An error says that a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = || {
        Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(Duration::from_mins(1))
            .redirect(Policy::none())
            .user_agent(concat!("opencode-api/", env!("CARGO_PKG_VERSION")))
    };
    // A machine without certificates can still talk to a local model.
    builder().build().or_else(|_| builder().tls_certs_only([]).build())
}

/// An error of the connection itself.
pub(super) fn transport(vendor: &str, error: &reqwest::Error) -> ProviderError {
    let cause = root_cause(error);
    if error.is_builder() {
        ProviderError::rejected(format!("the base URL of {vendor} cannot be used: {cause}"))
    } else if error.is_body() || error.is_decode() {
        ProviderError::unavailable(format!("the answer of {vendor} broke off: {cause}"))
    } else {
        ProviderError::unavailable(format!("{vendor} cannot be reached: {cause}"))
    }
}

/// The innermost cause: reqwest's own words name the URL, which may hold a password.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause = error.source();
    let mut words = None;
    while let Some(error) = cause {
        words = Some(error.to_string());
        cause = error.source();
    }
    words.unwrap_or_else(|| if error.is_timeout() { "timed out".into() } else { "the request failed".into() })
}

/// What an answer with an error status means.
pub(super) async fn status_error(vendor: &str, response: Response) -> ProviderError {
    let status = response.status();
    let retry_after = retry_after(response.headers());
    let own = json_body(response).await;
    let words = own.as_ref().and_then(own_message);
    let message = match words {
        Some(words) => format!("{vendor} answered {}: {words}", status.as_u16()),
        None if status.is_redirection() => {
            format!("{vendor} answered {} (a redirect); check its base URL", status.as_u16())
        }
        None => format!("{vendor} answered {}", describe(status)),
    };
    let kind = match own.as_ref().and_then(error_name) {
        // A used-up balance comes as 429, but waiting does not fill it.
        Some("insufficient_quota") => ProviderErrorKind::Rejected,
        name if status.is_client_error() && is_too_long(name, &message) => ProviderErrorKind::TooLong,
        Some(_) | None => kind_of_status(status.as_u16()),
    };
    ProviderError { kind, message, status: Some(status.as_u16()), retry_after }
}

fn describe(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(reason) => format!("{} ({reason})", status.as_u16()),
        None => status.as_u16().to_string(),
    }
}

/// Which statuses are worth asking again.
pub(super) fn kind_of_status(status: u16) -> ProviderErrorKind {
    match status {
        408 | 409 | 429 | 500.. => ProviderErrorKind::Unavailable,
        0..500 => ProviderErrorKind::Rejected,
    }
}

/// An answer with status 200 that is no event stream: its own error, or a sentence about what it is.
pub(super) async fn not_a_stream(vendor: &str, response: Response) -> ProviderError {
    let kind = response.headers().get("content-type").and_then(|value| value.to_str().ok()).unwrap_or("nothing");
    let found = head(kind, 100).to_owned();
    let retry_after = retry_after(response.headers());
    match json_body(response).await.and_then(|body| body_error(vendor, &body)) {
        Some(error) => ProviderError { retry_after: error.retry_after.or(retry_after), ..error },
        None => ProviderError::rejected(format!(
            "{vendor} answered with {found} in place of an event stream; check its base URL"
        )),
    }
}

/// The error that a JSON document reports, whatever status it came with.
pub(super) fn body_error(vendor: &str, body: &Value) -> Option<ProviderError> {
    let body = body.get(0).unwrap_or(body);
    let reported = body.get("error").filter(|error| match error {
        Value::String(words) => !words.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => false,
    });
    if reported.is_none() && !matches!(body["object"].as_str().or(body["type"].as_str()), Some("error")) {
        return None;
    }
    let status = ["code", "status", "status_code"]
        .iter()
        .filter_map(|key| reported.unwrap_or(body).get(key))
        .find_map(|value| value.as_u64().or_else(|| value.as_str()?.parse().ok()))
        .and_then(|status| u16::try_from(status).ok())
        .filter(|status| (400..600).contains(status));
    let words = own_message(body).or_else(|| error_name(body).map(str::to_owned));
    let message = format!("{vendor} reported: {}", words.as_deref().unwrap_or("an error without words"));
    let kind = match (error_name(body), status) {
        (name, None | Some(400..500)) if is_too_long(name, &message) => ProviderErrorKind::TooLong,
        (Some(name), _) if is_request_fault(name) => ProviderErrorKind::Rejected,
        (_, Some(status)) => kind_of_status(status),
        (_, None) => ProviderErrorKind::Unavailable,
    };
    Some(ProviderError { kind, message, status, retry_after: None })
}

/// Whether an error says that the prompt is longer than the model's context: by its name, else by the words that
/// providers and local servers have for it.
fn is_too_long(name: Option<&str>, message: &str) -> bool {
    const NAMES: [&str; 4] = ["context_length", "context_window", "exceed_context_size", "request_too_large"];
    const WORDS: [&str; 10] = [
        "prompt is too long",                // Anthropic
        "exceed context limit",              // Anthropic, of prompt and answer together
        "maximum context length",            // OpenAI, DeepSeek, Mistral, vLLM, OpenRouter
        "exceeds the context window",        // OpenAI
        "maximum prompt length",             // xAI
        "reduce the length of the messages", // Groq
        "exceeds the available context",     // llama.cpp
        "exceeds the context length",        // LM Studio, Ollama
        "greater than the context length",   // LM Studio
        "context length exceeded",
    ];
    let message = message.to_lowercase();
    name.is_some_and(|name| NAMES.iter().any(|known| name.contains(known)))
        || WORDS.iter().any(|known| message.contains(known))
}

/// Names of errors for which the request (or the account) is at fault.
fn is_request_fault(name: &str) -> bool {
    const FAULTS: [&str; 14] = [
        "authentication",
        "billing",
        "content_filter",
        "context_length",
        "context_window",
        "insufficient_quota",
        "invalid",
        "model_not_found",
        "not_found",
        "permission",
        "request_too_large",
        "string_above_max",
        "unauthorized",
        "unsupported",
    ];
    FAULTS.iter().any(|fault| name.contains(fault))
}

/// The machine-readable name of an error: its code where it is a word, else its type.
fn error_name(body: &Value) -> Option<&str> {
    let body = body.get(0).unwrap_or(body);
    let error = if body["error"].is_object() { &body["error"] } else { body };
    [&error["code"], &error["type"]]
        .into_iter()
        .filter_map(Value::as_str)
        .find(|name| !name.is_empty() && *name != "error" && name.parse::<u16>().is_err())
}

/// The provider's own words, in any of the places where providers put them.
fn own_message(body: &Value) -> Option<String> {
    let body = body.get(0).unwrap_or(body);
    let error = if body["error"].is_null() { body } else { &body["error"] };
    // A gateway hides the words of the provider behind it under its own.
    let behind = error["metadata"]["raw"].as_str().and_then(|raw| own_message(&serde_json::from_str(raw).ok()?));
    let words = [error, &error["message"], &error["detail"], &error["message"]["detail"], &body["message"]]
        .into_iter()
        .find_map(|place| match place {
            Value::String(words) if !words.trim().is_empty() => Some(words.trim().to_owned()),
            Value::Array(list) => list.first()?.get("msg")?.as_str().map(str::to_owned),
            _ => None,
        });
    let words = match (words, behind) {
        (Some(words), Some(behind)) if words != behind => Some(format!("{words}: {behind}")),
        (words, behind) => behind.or(words),
    };
    words.map(|words| head(&words, MESSAGE_LIMIT).to_owned())
}

/// Reads a bounded JSON body; a body that is no JSON, broken or slow gives none.
async fn json_body(response: Response) -> Option<Value> {
    let read = async {
        let mut body = Vec::new();
        let mut chunks = response.bytes_stream();
        while let Some(Ok(chunk)) = chunks.next().await {
            body.extend_from_slice(&chunk);
            if body.len() > BODY_LIMIT {
                break;
            }
        }
        serde_json::from_slice(&body).ok()
    };
    tokio::time::timeout(CONNECT_TIMEOUT, read).await.ok().flatten()
}

/// When to come back: `retry-after-ms`, or `retry-after` in seconds or as a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let seconds = |text: &str| text.parse().ok().and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok());
    let date = |text| jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok();
    if let Some(after) = text("retry-after-ms").and_then(seconds) {
        return Some(after / 1000);
    }
    let after = text("retry-after")?;
    seconds(after).or_else(|| {
        // By the provider's own clock where it tells it: ours may be off.
        let now = text("date").and_then(date).unwrap_or_else(Timestamp::now);
        Some(Duration::try_from(date(after)?.duration_since(now)).unwrap_or_default())
    })
}

/// Bounds an error's words and takes keys out of them.
pub(super) fn tidy(error: ProviderError, secrets: &[SecretString]) -> ProviderError {
    let mut message = error.message;
    for secret in secrets.iter().map(ExposeSecret::expose_secret).filter(|secret| secret.len() >= 4) {
        message = message.replace(secret, "***");
    }
    let words: Vec<&str> = message.split(' ').map(|word| if looks_like_key(word) { "***" } else { word }).collect();
    let message = words.join(" ");
    ProviderError { message: head(&message, MESSAGE_LIMIT + 200).to_owned(), ..error }
}

/// Keys of others (a gateway's own, say) have no business in our errors either.
fn looks_like_key(word: &str) -> bool {
    let word = word.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    word.len() >= 16 && ["sk-", "sk_", "gsk_", "xai-", "AIza"].iter().any(|prefix| word.starts_with(prefix))
}
