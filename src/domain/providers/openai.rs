//! The Chat Completions dialect, whoever speaks it.

mod chunks;
mod vendors;

use std::fmt::Write as _;

use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub(crate) use self::vendors::Vendor;
use self::vendors::{KeyHeader, SendBack};
use super::{
    Answer, Http, ProviderError, Request, StallLimits,
    attachment::{Shown, show},
    sse::{self, Sending},
};
use crate::domain::{
    message::{Message, Role},
    part::{Part, Seal},
};

/// A provider that speaks the Chat Completions dialect.
#[derive(Clone, Debug)]
pub(crate) struct OpenAi {
    /// The shared client.
    pub http: Http,
    /// Who it is.
    pub vendor: &'static Vendor,
    /// Where it is, if not at the vendor's own address: up to the version (which may be left out for `local` and
    /// `azure`), with or without a trailing `/`.
    pub base_url: Option<String>,
    /// The key, if it needs one.
    pub key: Option<SecretString>,
    /// The API version for Azure's dated dialect; none for its undated one.
    pub api_version: Option<String>,
    /// How long it may be silent.
    pub limits: StallLimits,
}

impl OpenAi {
    pub(super) fn stream(&self, request: &Request) -> Answer {
        let sending = Sending {
            vendor: self.vendor.name,
            request: self.request(request),
            secrets: self.key.iter().cloned().collect(),
        };
        sse::answer(sending, chunks::Reader::new(self.vendor.name))
    }

    fn request(&self, request: &Request) -> Result<reqwest::RequestBuilder, ProviderError> {
        let post = self.http.client()?.post(self.url(&request.model)).json(&self.body(request));
        self.authorized(post)
    }

    /// The address of the provider's list of models.
    pub(crate) fn models_url(&self) -> String {
        format!("{}/models", self.base())
    }

    /// Adds the key.
    pub(crate) fn authorized(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<reqwest::RequestBuilder, ProviderError> {
        let Some(key) = &self.key else { return Ok(request) };
        let (name, text) = match self.vendor.key_header {
            KeyHeader::Bearer => ("authorization", format!("Bearer {}", key.expose_secret())),
            KeyHeader::ApiKey => ("api-key", key.expose_secret().to_owned()),
        };
        let mut value = HeaderValue::from_str(&text).map_err(|_| {
            let variable = self.vendor.key_variable.unwrap_or("the key");
            ProviderError::rejected(format!("the value of {variable} cannot be a key; check it"))
        })?;
        value.set_sensitive(true);
        Ok(request.header(name, value))
    }

    fn base(&self) -> String {
        let base = self.base_url.as_deref().or(self.vendor.base_url).unwrap_or_default().trim_end_matches('/');
        let base = base.strip_suffix("/chat/completions").unwrap_or(base);
        match self.vendor.name {
            "local" if !base.ends_with("/v1") => format!("{base}/v1"),
            "azure" => {
                let host = base.strip_suffix("/v1").unwrap_or(base);
                format!("{}/openai/v1", host.strip_suffix("/openai").unwrap_or(host))
            }
            _ => base.to_owned(),
        }
    }

    fn url(&self, model: &str) -> String {
        let base = self.base();
        match &self.api_version {
            Some(version) => {
                let host = base.strip_suffix("/v1").unwrap_or(&base);
                let deployment = percent_encoding::utf8_percent_encode(model, percent_encoding::NON_ALPHANUMERIC);
                format!("{host}/deployments/{deployment}/chat/completions?api-version={version}")
            }
            None => format!("{base}/chat/completions"),
        }
    }

    fn body(&self, request: &Request) -> Value {
        let mut body = json!({"model": request.model, "stream": true, "messages": self.messages(request)});
        if self.vendor.stream_options {
            body["stream_options"] = json!({"include_usage": true});
        }
        if request.max_output_tokens > 0 {
            body[self.vendor.max_tokens] = request.max_output_tokens.into();
        }
        if !request.tools.is_empty() {
            let tool = |tool: &super::ToolSpec| {
                let function = json!({
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.schema,
                });
                json!({"type": "function", "function": function})
            };
            body["tools"] = request.tools.iter().map(tool).collect();
            let is_one_of = |starts: &[&str]| starts.iter().any(|start| request.model.starts_with(start));
            // Those that take no tools here at all are only asked through a proxy that translates, and refuse 'none'.
            if is_one_of(self.vendor.no_reasoning_with_tools) && !is_one_of(self.vendor.no_tools) {
                body["reasoning_effort"] = "none".into();
            }
        }
        body
    }

    fn messages(&self, request: &Request) -> Vec<Value> {
        let mut messages = Vec::new();
        if !request.system.trim().is_empty() {
            messages.push(json!({"role": "system", "content": request.system}));
        }
        for message in &request.messages {
            match message.role {
                Role::User => self.push_user(user_content(message, request.images), &mut messages),
                Role::Assistant => messages.extend(self.assistant(message, request)),
                Role::Tool => {
                    messages.extend(message.parts.iter().filter_map(|part| self.tool_result(part)));
                    // A tool message takes words only, so what tools gave to look at follows as the user's.
                    self.push_user(user_content(message, request.images), &mut messages);
                }
            }
        }
        messages
    }

    fn push_user(&self, content: Option<Value>, messages: &mut Vec<Value>) {
        let Some(content) = content else { return };
        if !self.vendor.user_after_tool && messages.last().is_some_and(|last| last["role"] == "tool") {
            messages.push(json!({"role": "assistant", "content": "Understood."}));
        }
        messages.push(json!({"role": "user", "content": content}));
    }

    fn tool_result(&self, part: &Part) -> Option<Value> {
        match part {
            Part::ToolResult(result) => Some(json!({
                "role": "tool",
                "tool_call_id": self.call_id(result.tool_call_id.as_str()),
                "content": if result.content.trim().is_empty() { "(no output)" } else { &result.content },
            })),
            Part::Text(_) | Part::Binary(_) | Part::ToolCall(_) | Part::Finish(_) | Part::Reasoning(_) => None,
        }
    }

    fn assistant(&self, message: &Message, request: &Request) -> Option<Value> {
        let mut text = String::new();
        let mut calls = Vec::new();
        for part in &message.parts {
            match part {
                Part::Text(part) => text.push_str(&part.text),
                Part::ToolCall(call) => {
                    let input = if call.input.is_object() { call.input.to_string() } else { "{}".to_owned() };
                    calls.push(json!({
                        "id": self.call_id(call.id.as_str()),
                        "type": "function",
                        "function": {"name": call.name, "arguments": input},
                    }));
                }
                Part::Binary(_) | Part::ToolResult(_) | Part::Finish(_) | Part::Reasoning(_) => {}
            }
        }
        if text.trim().is_empty() {
            if calls.is_empty() {
                return None;
            }
            text.clear();
        }
        let mut answer = json!({"role": "assistant", "content": text});
        if !calls.is_empty() {
            answer["tool_calls"] = calls.into();
        }
        let own = message.model.as_deref() == Some(request.full_model.as_str());
        match self.vendor.reasoning {
            SendBack::Nothing => {}
            // Left out, the next call is refused; so it stands there even where there is none.
            SendBack::Words if request.reasoning => {
                answer["reasoning_content"] = if own { thoughts(message) } else { String::new() }.into();
            }
            SendBack::Details if own => {
                if let Some(details) = details(message) {
                    answer["reasoning_details"] = details;
                }
            }
            SendBack::Words | SendBack::Details => {}
        }
        Some(answer)
    }

    /// The id of a call as this vendor takes it.
    fn call_id(&self, id: &str) -> String {
        if !self.vendor.short_ids {
            return id.to_owned();
        }
        Sha256::digest(id).iter().take(5).fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text.truncate(9);
            text
        })
    }
}

/// A plain text where it can be one, since not everybody takes a list.
fn user_content(message: &Message, images: bool) -> Option<Value> {
    let mut items: Vec<Value> = Vec::new();
    let text = |words: &str| json!({"type": "text", "text": words});
    for part in &message.parts {
        match part {
            Part::Text(part) if !part.text.trim().is_empty() => items.push(text(&part.text)),
            Part::Binary(file) => items.push(match show(file, images) {
                Shown::Image { mime_type, base64 } => {
                    json!({"type": "image_url", "image_url": {"url": format!("data:{mime_type};base64,{base64}")}})
                }
                Shown::Words(words) => text(&words),
            }),
            Part::Text(_) | Part::ToolCall(_) | Part::ToolResult(_) | Part::Finish(_) | Part::Reasoning(_) => {}
        }
    }
    if items.is_empty() {
        return None;
    }
    if message.role == Role::Tool {
        items.insert(0, text("(Shown by the tools that were called:)"));
    }
    let words: Option<Vec<&str>> = items.iter().map(|item| item["text"].as_str()).collect();
    Some(match words {
        Some(words) => words.join("\n\n").into(),
        None => items.into(),
    })
}

fn thoughts(message: &Message) -> String {
    message
        .parts
        .iter()
        .filter_map(|part| match part {
            Part::Reasoning(reasoning) => Some(reasoning.thinking.as_str()),
            Part::Text(_) | Part::Binary(_) | Part::ToolCall(_) | Part::ToolResult(_) | Part::Finish(_) => None,
        })
        .collect()
}

/// What the reader packed into the seal.
fn details(message: &Message) -> Option<Value> {
    message.parts.iter().rev().find_map(|part| match part {
        Part::Reasoning(reasoning) => match &reasoning.seal {
            Some(Seal::Redacted(json)) => serde_json::from_str(json).ok().filter(Value::is_array),
            Some(Seal::Signature(_)) | None => None,
        },
        Part::Text(_) | Part::Binary(_) | Part::ToolCall(_) | Part::ToolResult(_) | Part::Finish(_) => None,
    })
}
