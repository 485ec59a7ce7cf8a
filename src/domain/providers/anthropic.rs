//! The Messages dialect.

mod events;

use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::{
    Answer, Http, ProviderError, Request, StallLimits,
    attachment::{Shown, show},
    sse::{self, Sending},
};
use crate::domain::{
    message::{Message, Role},
    part::{Part, Seal},
};

const DEFAULT_BASE_URL: &str = "https://api.anthropic.com";
const API_VERSION: &str = "2023-06-01";
/// The dialect demands a limit; this one is for models whose own is not known.
const DEFAULT_MAX_TOKENS: u32 = 8_192;
/// Lets thinking whose prefix has changed be dropped in place of refusing the request.
const BINDING_BETA: &str = "thinking-binding-controls-2026-08-01";

/// A provider that speaks the Messages dialect.
#[derive(Clone, Debug)]
pub(crate) struct Anthropic {
    /// The shared client.
    pub http: Http,
    /// Where it is, if not at Anthropic; with or without a trailing `/` or `/v1`.
    pub base_url: Option<String>,
    /// The key.
    pub key: SecretString,
    /// How long it may be silent.
    pub limits: StallLimits,
}

impl Anthropic {
    pub(super) fn stream(&self, request: &Request) -> Answer {
        let sending = Sending { vendor: "anthropic", request: self.request(request), secrets: vec![self.key.clone()] };
        sse::answer(sending, events::Reader::default())
    }

    fn request(&self, request: &Request) -> Result<reqwest::RequestBuilder, ProviderError> {
        let mut key = HeaderValue::from_str(self.key.expose_secret())
            .map_err(|_| ProviderError::rejected("the value of ANTHROPIC_API_KEY cannot be a key; check it"))?;
        key.set_sensitive(true);
        let binding = self.base_url.is_none() && generation(&request.model) >= Some((5, 1));
        let mut builder = self
            .http
            .client()?
            .post(url(self.base_url.as_deref()))
            .header("x-api-key", key)
            .header("anthropic-version", API_VERSION);
        if binding {
            builder = builder.header("anthropic-beta", BINDING_BETA);
        }
        Ok(builder.json(&body(request, binding)))
    }
}

fn url(base_url: Option<&str>) -> String {
    let base = base_url.unwrap_or(DEFAULT_BASE_URL).trim_end_matches('/');
    format!("{}/v1/messages", base.strip_suffix("/v1").unwrap_or(base))
}

/// The version in a name such as `claude-opus-5-5` or `claude-opus-4-6-20260205`.
fn generation(model: &str) -> Option<(u32, u32)> {
    let mut parts = model.strip_prefix("claude-")?.split('-');
    // Older names have the version before the family; a date is no minor version.
    parts.next().filter(|family| family.starts_with(|c: char| c.is_ascii_alphabetic()))?;
    let mut number = || parts.next()?.parse().ok().filter(|number: &u32| *number < 100);
    let major = number()?;
    Some((major, number().unwrap_or(0)))
}

fn body(request: &Request, binding: bool) -> Value {
    let max_tokens = if request.max_output_tokens == 0 { DEFAULT_MAX_TOKENS } else { request.max_output_tokens };
    let mut body = json!({
        "model": request.model,
        "max_tokens": max_tokens,
        "stream": true,
        "messages": messages(request),
    });
    if !request.system.trim().is_empty() {
        body["system"] = json!([breakpoint(json!({"type": "text", "text": request.system}))]);
    }
    let mut tools: Vec<Value> = request
        .tools
        .iter()
        .map(|tool| json!({"name": tool.name, "description": tool.description, "input_schema": tool.schema}))
        .collect();
    if let Some(last) = tools.last_mut() {
        *last = breakpoint(last.take());
        body["tools"] = tools.into();
    }
    // From version 5 on models think unless told otherwise, in silence: asking for the summary changes nothing else,
    // lets people see it, and keeps a long thought from looking like a stall. Older ones think only when asked, which
    // we do not do.
    if request.reasoning && generation(&request.model) >= Some((5, 0)) {
        body["thinking"] = json!({"type": "adaptive", "display": "summarized"});
        if binding {
            // Context files, pruning and compaction change what is before a thought.
            body["thinking"]["block_binding"] = json!({"prefix_mismatch_behavior": "drop_block"});
        }
    }
    body
}

/// Up to here the provider may cache.
fn breakpoint(mut block: Value) -> Value {
    block["cache_control"] = json!({"type": "ephemeral"});
    block
}

fn messages(request: &Request) -> Vec<Value> {
    let mut messages: Vec<(&str, Vec<Value>)> = Vec::new();
    for message in &request.messages {
        let (role, blocks) = match message.role {
            Role::User => ("user", user_blocks(message, request.images)),
            Role::Tool => ("user", tool_blocks(message, request.images)),
            Role::Assistant => ("assistant", assistant_blocks(message, request)),
        };
        if blocks.is_empty() {
            continue;
        }
        match messages.last_mut() {
            Some((last, all)) if *last == role => all.extend(blocks),
            Some(_) | None => messages.push((role, blocks)),
        }
    }
    if let Some(last) = messages.last_mut().and_then(|(_, blocks)| blocks.last_mut())
        && !matches!(last["type"].as_str(), Some("thinking" | "redacted_thinking"))
    {
        *last = breakpoint(last.take());
    }
    messages.into_iter().map(|(role, content)| json!({"role": role, "content": content})).collect()
}

fn user_blocks(message: &Message, images: bool) -> Vec<Value> {
    message
        .parts
        .iter()
        .filter_map(|part| match part {
            Part::Text(text) => text_block(&text.text),
            Part::Binary(file) => match show(file, images) {
                Shown::Image { mime_type, base64 } => Some(json!({
                    "type": "image",
                    "source": {"type": "base64", "media_type": mime_type, "data": base64},
                })),
                Shown::Words(words) => text_block(&words),
            },
            Part::ToolCall(_) | Part::ToolResult(_) | Part::Finish(_) | Part::Reasoning(_) => None,
        })
        .collect()
}

/// Blank text is refused by the provider.
fn text_block(text: &str) -> Option<Value> {
    (!text.trim().is_empty()).then(|| json!({"type": "text", "text": text}))
}

/// Results come first, as the dialect demands, then the images that tools gave.
fn tool_blocks(message: &Message, images: bool) -> Vec<Value> {
    let mut blocks: Vec<Value> = message
        .parts
        .iter()
        .filter_map(|part| match part {
            Part::ToolResult(result) => {
                let content = if result.content.trim().is_empty() { "(no output)" } else { &result.content };
                Some(json!({
                    "type": "tool_result",
                    "tool_use_id": result.tool_call_id.as_str(),
                    "content": content,
                    "is_error": result.is_error,
                }))
            }
            Part::Text(_) | Part::Binary(_) | Part::ToolCall(_) | Part::Finish(_) | Part::Reasoning(_) => None,
        })
        .collect();
    blocks.extend(user_blocks(message, images));
    blocks
}

fn assistant_blocks(message: &Message, request: &Request) -> Vec<Value> {
    let own = message.model.as_deref() == Some(request.full_model.as_str());
    let mut blocks: Vec<Value> = message
        .parts
        .iter()
        .filter_map(|part| match part {
            Part::Text(text) => text_block(&text.text),
            Part::ToolCall(call) => Some(json!({
                "type": "tool_use",
                "id": call.id.as_str(),
                "name": call.name,
                "input": if call.input.is_object() { call.input.clone() } else { json!({}) },
            })),
            Part::Reasoning(reasoning) if own => match &reasoning.seal {
                Some(Seal::Signature(signature)) => {
                    Some(json!({"type": "thinking", "thinking": reasoning.thinking, "signature": signature}))
                }
                Some(Seal::Redacted(data)) => Some(json!({"type": "redacted_thinking", "data": data})),
                None => None,
            },
            Part::Reasoning(_) | Part::Binary(_) | Part::ToolResult(_) | Part::Finish(_) => None,
        })
        .collect();
    // A message may not end in a thought.
    while blocks.pop_if(|last| matches!(last["type"].as_str(), Some("thinking" | "redacted_thinking"))).is_some() {}
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_generation_and_not_the_date() {
        assert_eq!(generation("claude-opus-5-5"), Some((5, 5)));
        assert_eq!(generation("claude-opus-4-6-20260205"), Some((4, 6)));
        assert_eq!(generation("claude-opus-5-20260901"), Some((5, 0)));
        assert_eq!(generation("claude-sonnet-5"), Some((5, 0)));
        assert_eq!(generation("claude-3-5-sonnet-latest"), None);
        assert_eq!(generation("gpt-5"), None);
    }

    #[test]
    fn takes_the_base_url_in_any_form() {
        for base in ["http://h", "http://h/", "http://h/v1", "http://h/v1/"] {
            assert_eq!(url(Some(base)), "http://h/v1/messages");
        }
    }
}
