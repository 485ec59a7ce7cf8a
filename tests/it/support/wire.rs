//! The two dialects as the scripted model speaks and reads them.

use serde_json::{Value, json};

use super::model::{Ask, Dialect, Ending, Step, Tokens};

/// Where requests go.
pub fn path(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Anthropic => "/v1/messages",
        Dialect::OpenAi => "/v1/chat/completions",
    }
}

/// Writes the events of one answer.
pub struct Writer {
    dialect: Dialect,
    tokens: Tokens,
    ending: Ending,
    /// Kind and number of the open block (Anthropic).
    block: Option<(&'static str, usize)>,
    blocks: usize,
    calls: usize,
}

impl Writer {
    pub fn new(dialect: Dialect, steps: &[Step]) -> Self {
        let (mut tokens, mut ending) = (Tokens::default(), Ending::EndTurn);
        for step in steps {
            match step {
                Step::Call { .. } => ending = Ending::ToolUse,
                Step::Usage(own) => tokens = *own,
                Step::Finish(own) => ending = *own,
                _ => {}
            }
        }
        Self { dialect, tokens, ending, block: None, blocks: 0, calls: 0 }
    }

    pub fn begin(&self) -> String {
        match self.dialect {
            Dialect::Anthropic => {
                let usage = json!({
                    "input_tokens": self.tokens.input,
                    "cache_read_input_tokens": self.tokens.cache_read,
                    "cache_creation_input_tokens": self.tokens.cache_write,
                    "output_tokens": 1,
                });
                let message = json!({"id": "msg_1", "type": "message", "role": "assistant", "content": [],
                    "model": "scripted", "stop_reason": null, "usage": usage});
                anthropic(&json!({"type": "message_start", "message": message})) + &anthropic(&json!({"type": "ping"}))
            }
            Dialect::OpenAi => openai(&json!({"role": "assistant", "content": ""}), None),
        }
    }

    /// A comment, and what else the dialect has that means nothing.
    pub fn ping(&self) -> String {
        let ping = match self.dialect {
            Dialect::Anthropic => anthropic(&json!({"type": "ping"})),
            Dialect::OpenAi => openai(&json!({"content": ""}), None) + &openai(&json!({}), None),
        };
        format!(": still here\n\n{ping}")
    }

    pub fn text(&mut self, text: &str) -> String {
        match self.dialect {
            Dialect::Anthropic => {
                self.open("text", json!({"type": "text", "text": ""}))
                    + &self.delta(json!({"type": "text_delta", "text": text}))
            }
            Dialect::OpenAi => openai(&json!({"content": text}), None),
        }
    }

    pub fn reasoning(&mut self, text: &str) -> String {
        match self.dialect {
            Dialect::Anthropic => {
                self.open("thinking", json!({"type": "thinking", "thinking": "", "signature": ""}))
                    + &self.delta(json!({"type": "thinking_delta", "thinking": text}))
            }
            Dialect::OpenAi => openai(&json!({"reasoning_content": text}), None),
        }
    }

    pub fn sign(&mut self, signature: &str) -> String {
        match self.dialect {
            Dialect::Anthropic => {
                self.delta(json!({"type": "signature_delta", "signature": signature})) + &self.close()
            }
            Dialect::OpenAi => String::new(),
        }
    }

    /// The ids are all the same, as bad gateways do it: the server has to use its own.
    pub fn call(&mut self, name: &str) -> String {
        self.calls += 1;
        match self.dialect {
            Dialect::Anthropic => {
                let closed = self.close();
                closed + &self.open("tool", json!({"type": "tool_use", "id": "toolu_1", "name": name, "input": {}}))
            }
            Dialect::OpenAi => {
                let function = json!({"name": name, "arguments": ""});
                openai(
                    &json!({"tool_calls": [{"index": self.calls - 1, "id": "call_1", "type": "function",
                    "function": function}]}),
                    None,
                )
            }
        }
    }

    pub fn input(&mut self, piece: &str) -> String {
        match self.dialect {
            Dialect::Anthropic => self.delta(json!({"type": "input_json_delta", "partial_json": piece})),
            Dialect::OpenAi => {
                openai(&json!({"tool_calls": [{"index": self.calls - 1, "function": {"arguments": piece}}]}), None)
            }
        }
    }

    pub fn end(&mut self) -> String {
        let tokens = self.tokens;
        match self.dialect {
            Dialect::Anthropic => {
                let reason = match self.ending {
                    Ending::EndTurn => "end_turn",
                    Ending::ToolUse => "tool_use",
                    Ending::MaxTokens => "max_tokens",
                    Ending::Refused => "refusal",
                };
                let mut usage = json!({"output_tokens": tokens.output});
                if tokens.reasoning > 0 {
                    usage["output_tokens_details"] = json!({"thinking_tokens": tokens.reasoning});
                }
                self.close()
                    + &anthropic(&json!({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}))
                    + &anthropic(&json!({"type": "message_stop"}))
            }
            Dialect::OpenAi => {
                let reason = match self.ending {
                    Ending::EndTurn => "stop",
                    Ending::ToolUse => "tool_calls",
                    Ending::MaxTokens => "length",
                    Ending::Refused => "content_filter",
                };
                let prompt = tokens.input + tokens.cache_read + tokens.cache_write;
                let usage = json!({"id": "c", "object": "chat.completion.chunk", "choices": [], "usage": {
                    "prompt_tokens": prompt,
                    "completion_tokens": tokens.output,
                    "total_tokens": prompt + tokens.output,
                    "prompt_tokens_details": {"cached_tokens": tokens.cache_read, "cache_write_tokens": tokens.cache_write},
                    "completion_tokens_details": {"reasoning_tokens": tokens.reasoning},
                }});
                openai(&json!({}), Some(reason)) + &format!("data: {usage}\n\ndata: [DONE]\n\n")
            }
        }
    }

    fn open(&mut self, kind: &'static str, block: Value) -> String {
        if self.block.is_some_and(|(open, _)| open == kind) {
            return String::new();
        }
        let closed = self.close();
        self.block = Some((kind, self.blocks));
        closed + &anthropic(&json!({"type": "content_block_start", "index": self.blocks, "content_block": block}))
    }

    fn delta(&self, delta: Value) -> String {
        let (_, index) = self.block.expect("a block is open");
        anthropic(&json!({"type": "content_block_delta", "index": index, "delta": delta}))
    }

    fn close(&mut self) -> String {
        let Some((_, index)) = self.block.take() else { return String::new() };
        self.blocks += 1;
        anthropic(&json!({"type": "content_block_stop", "index": index}))
    }
}

fn anthropic(event: &Value) -> String {
    format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default())
}

fn openai(delta: &Value, reason: Option<&str>) -> String {
    let choice = json!({"index": 0, "delta": delta, "finish_reason": reason});
    format!("data: {}\n\n", json!({"id": "c", "object": "chat.completion.chunk", "choices": [choice]}))
}

/// One thing that the model was told, whatever the dialect.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    User(String),
    /// Words of the model itself.
    Model(String),
    /// A thought with its signature (Anthropic).
    Thought {
        text: String,
        signature: String,
    },
    Call {
        name: String,
        input: Value,
    },
    Result(String),
    Image {
        mime_type: String,
    },
}

impl Ask {
    pub fn system(&self) -> String {
        match self.dialect {
            Dialect::Anthropic => self.body["system"][0]["text"].as_str().unwrap_or_default().to_owned(),
            Dialect::OpenAi => self.body["messages"][0]["content"].as_str().unwrap_or_default().to_owned(),
        }
    }

    /// The names of the tools that it may call.
    pub fn tools(&self) -> Vec<&str> {
        let tools = self.body["tools"].as_array().into_iter().flatten();
        tools.filter_map(|tool| tool["name"].as_str().or(tool["function"]["name"].as_str())).collect()
    }

    /// The conversation. Fails where a provider would refuse it: every call has its result right behind it, no
    /// result stands alone, ids are unique, roles alternate, nothing is blank.
    pub fn conversation(&self) -> Vec<Said> {
        let messages = self.body["messages"].as_array().expect("messages");
        match self.dialect {
            Dialect::Anthropic => anthropic_conversation(messages),
            Dialect::OpenAi => openai_conversation(messages),
        }
    }
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

fn anthropic_conversation(messages: &[Value]) -> Vec<Said> {
    let mut said = Vec::new();
    let (mut called, mut ids) = (Vec::new(), Vec::new());
    for (index, message) in messages.iter().enumerate() {
        let expected = if index % 2 == 0 { "user" } else { "assistant" };
        assert_eq!(message["role"], expected, "roles alternate");
        let blocks = message["content"].as_array().expect("blocks");
        assert!(!blocks.is_empty(), "a message without content");
        let mut open: Vec<String> = std::mem::take(&mut called);
        for block in blocks {
            match block["type"].as_str().expect("a type") {
                "text" => {
                    let text = string(&block["text"]);
                    assert!(!text.trim().is_empty(), "blank text is refused");
                    assert!(open.is_empty(), "results come before anything else");
                    said.push(if expected == "user" { Said::User(text) } else { Said::Model(text) });
                }
                "thinking" => said
                    .push(Said::Thought { text: string(&block["thinking"]), signature: string(&block["signature"]) }),
                "tool_use" => {
                    let id = string(&block["id"]);
                    assert!(!ids.contains(&id), "an id twice: {id}");
                    ids.push(id.clone());
                    called.push(id);
                    said.push(Said::Call { name: string(&block["name"]), input: block["input"].clone() });
                    assert!(block["input"].is_object());
                }
                "tool_result" => {
                    let id = string(&block["tool_use_id"]);
                    assert_eq!(open.first(), Some(&id), "results come in the order of their calls");
                    open.remove(0);
                    said.push(Said::Result(string(&block["content"])));
                }
                "image" => said.push(Said::Image { mime_type: string(&block["source"]["media_type"]) }),
                other => panic!("unknown block {other}"),
            }
        }
        assert!(open.is_empty(), "calls without result: {open:?}");
    }
    assert!(called.is_empty(), "calls without result: {called:?}");
    said
}

fn openai_conversation(messages: &[Value]) -> Vec<Said> {
    let mut said = Vec::new();
    let (mut open, mut ids): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    for (index, message) in messages.iter().enumerate() {
        let role = message["role"].as_str().expect("a role");
        assert_eq!(role == "system", index == 0, "one system message, at the beginning");
        assert!(role == "tool" || open.is_empty(), "calls without result: {open:?}");
        match role {
            "system" => {}
            "user" => match &message["content"] {
                Value::String(text) => said.push(Said::User(text.clone())),
                Value::Array(items) => said.extend(items.iter().map(|item| match item["image_url"]["url"].as_str() {
                    None => Said::User(string(&item["text"])),
                    Some(url) => {
                        let (mime_type, _) =
                            url.strip_prefix("data:").expect("a data URL").split_once(';').expect("a type");
                        Said::Image { mime_type: mime_type.to_owned() }
                    }
                })),
                other => panic!("no content: {other}"),
            },
            "assistant" => {
                let text = message["content"].as_str().unwrap_or_default();
                if !text.is_empty() {
                    said.push(Said::Model(text.to_owned()));
                }
                for call in message["tool_calls"].as_array().into_iter().flatten() {
                    let id = string(&call["id"]);
                    assert!(!ids.contains(&id), "an id twice: {id}");
                    ids.push(id.clone());
                    open.push(id);
                    let input: Value = serde_json::from_str(&string(&call["function"]["arguments"])).expect("JSON");
                    assert!(input.is_object());
                    said.push(Said::Call { name: string(&call["function"]["name"]), input });
                }
                assert!(!text.is_empty() || !open.is_empty(), "a message without content");
            }
            "tool" => {
                let id = string(&message["tool_call_id"]);
                assert_eq!(open.first(), Some(&id), "results come in the order of their calls");
                open.remove(0);
                said.push(Said::Result(string(&message["content"])));
            }
            other => panic!("unknown role {other}"),
        }
    }
    assert!(open.is_empty(), "calls without result: {open:?}");
    said
}
