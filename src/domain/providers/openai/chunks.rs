//! Reads the chunks of the Chat Completions dialect.

use std::collections::VecDeque;

use serde_json::Value;

use crate::domain::{
    part::{FinishReason, Seal},
    providers::{Delta, ProviderError, http, sse::Dialect},
    usage::Tokens,
};

/// What was read so far.
pub(super) struct Reader {
    vendor: &'static str,
    calls: Vec<Call>,
    /// The vendor's word for why it ended.
    reason: Option<String>,
    /// `[DONE]` came.
    done: bool,
    usage: Option<Tokens>,
    /// Reasoning in the form that has to be sent back.
    details: Vec<Value>,
}

/// A tool call. Its place in the list is its index in the deltas, whatever the vendor counts.
struct Call {
    index: Option<u64>,
    id: String,
    /// The name was known, so that the call was announced.
    announced: bool,
    /// The arguments so far.
    input: String,
}

impl Reader {
    pub(super) fn new(vendor: &'static str) -> Self {
        Self { vendor, calls: Vec::new(), reason: None, done: false, usage: None, details: Vec::new() }
    }
}

impl Dialect for Reader {
    fn event(&mut self, data: &str, out: &mut VecDeque<Delta>) -> Result<(), ProviderError> {
        if data == "[DONE]" {
            self.done = true;
            self.end(out);
            return Ok(());
        }
        let chunk: Value = serde_json::from_str(data).map_err(|_| ProviderError::malformed(self.vendor))?;
        if !chunk.is_object() {
            return Err(ProviderError::malformed(self.vendor));
        }
        if let Some(error) = http::body_error(self.vendor, &chunk) {
            return Err(error);
        }
        if let Some(usage) = tokens(&chunk)
            && self.usage != Some(usage)
        {
            self.usage = Some(usage);
            out.push_back(Delta::Usage(usage));
        }
        let choice = &chunk["choices"][0];
        // Some answer a question for a stream with one whole message.
        let delta = if choice["delta"].is_object() { &choice["delta"] } else { &choice["message"] };
        self.delta(delta, out);
        match choice["finish_reason"].as_str() {
            Some("error" | "insufficient_system_resource") => {
                return Err(ProviderError::unavailable(format!("{} failed in the middle of its answer", self.vendor)));
            }
            Some(reason) if !reason.is_empty() => self.reason = Some(reason.to_owned()),
            Some(_) | None => {}
        }
        Ok(())
    }

    /// Usage comes after the reason, `[DONE]` after that, where they come at all.
    fn whole(&self) -> bool {
        self.reason.is_some()
    }

    fn end(&mut self, out: &mut VecDeque<Delta>) {
        if self.reason.is_none() && !self.done {
            return;
        }
        for (index, call) in self.calls.iter_mut().enumerate() {
            if !call.announced {
                out.push_back(Delta::ToolCall { index, name: String::new() });
                if !call.input.is_empty() {
                    out.push_back(Delta::ToolInput { index, text: call.input.clone() });
                }
            }
            if call.input.trim().is_empty() {
                "{}".clone_into(&mut call.input);
                out.push_back(Delta::ToolInput { index, text: call.input.clone() });
            }
        }
        if !self.details.is_empty() {
            let json = Value::Array(std::mem::take(&mut self.details)).to_string();
            out.push_back(Delta::ReasoningSeal(Seal::Redacted(json)));
        }
        out.push_back(Delta::Finish(self.finish_reason()));
    }
}

impl Reader {
    fn delta(&mut self, delta: &Value, out: &mut VecDeque<Delta>) {
        for key in ["reasoning_content", "reasoning"] {
            if let Some(text) = delta[key].as_str().filter(|text| !text.is_empty()) {
                out.push_back(Delta::Reasoning(text.to_owned()));
                break;
            }
        }
        for item in delta["reasoning_details"].as_array().into_iter().flatten() {
            self.detail(item);
        }
        match &delta["content"] {
            Value::String(text) => text_delta(text, out),
            // A list of texts and thoughts.
            Value::Array(items) => items.iter().for_each(|item| content_item(item, out)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {}
        }
        if let Some(refusal) = delta["refusal"].as_str() {
            text_delta(refusal, out);
        }
        for item in delta["tool_calls"].as_array().into_iter().flatten() {
            self.call(item["index"].as_u64(), item["id"].as_str().unwrap_or_default(), &item["function"], out);
        }
        if delta["function_call"].is_object() {
            self.call(Some(0), "", &delta["function_call"], out);
        }
    }

    /// A piece of a tool call.
    fn call(&mut self, index: Option<u64>, id: &str, function: &Value, out: &mut VecDeque<Delta>) {
        let name = function["name"].as_str().unwrap_or_default();
        let piece = match &function["arguments"] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            // Against the dialect, but seen: the arguments themselves in place of their text.
            arguments => arguments.to_string(),
        };
        let position = self.position(index, id, name, &piece);
        let call = &mut self.calls[position];
        if call.announced || name.is_empty() {
            call.input.push_str(&piece);
            if call.announced && !piece.is_empty() {
                out.push_back(Delta::ToolInput { index: position, text: piece });
            }
            return;
        }
        call.announced = true;
        call.input.push_str(&piece);
        out.push_back(Delta::ToolCall { index: position, name: name.to_owned() });
        if !call.input.is_empty() {
            out.push_back(Delta::ToolInput { index: position, text: call.input.clone() });
        }
    }

    /// Which call a piece belongs to: one that is known, or a new one. The index decides, then the id; but an index
    /// may be missing or always 0, and an id empty or repeated.
    fn position(&mut self, index: Option<u64>, id: &str, name: &str, piece: &str) -> usize {
        let known = match index {
            Some(_) => self.calls.iter().rposition(|call| call.index == index),
            None if id.is_empty() && !name.is_empty() => None,
            None if id.is_empty() => self.calls.len().checked_sub(1),
            None => self.calls.iter().rposition(|call| call.id == id),
        };
        let goes_on = known.filter(|position| {
            let call = &self.calls[*position];
            let other_id = !id.is_empty() && !call.id.is_empty() && call.id != id;
            if !call.announced || name.is_empty() {
                return true;
            }
            // Parsed only here: most pieces come without a name.
            let complete = !piece.is_empty() && is_object(&call.input);
            !other_id && !complete
        });
        if let Some(position) = goes_on {
            let call = &mut self.calls[position];
            if call.id.is_empty() {
                id.clone_into(&mut call.id);
            }
            return position;
        }
        self.calls.push(Call { index, id: id.to_owned(), announced: false, input: String::new() });
        self.calls.len() - 1
    }

    /// Joins a piece of sealed reasoning to what it belongs to.
    fn detail(&mut self, item: &Value) {
        let Some(new) = item.as_object() else { return };
        let same = |last: &&mut Value| last["type"] == item["type"] && last["index"] == item["index"];
        let Some(last) = self.details.last_mut().filter(same).and_then(Value::as_object_mut) else {
            self.details.push(item.clone());
            return;
        };
        for (key, value) in new {
            match (last.get_mut(key), value) {
                (_, Value::Null) => {}
                (Some(Value::String(text)), Value::String(more)) if is_streamed(key) => text.push_str(more),
                (Some(_) | None, value) => {
                    last.insert(key.clone(), value.clone());
                }
            }
        }
    }

    fn finish_reason(&self) -> FinishReason {
        let whole = self.calls.iter().all(|call| is_object(&call.input));
        let natural = if self.calls.is_empty() { FinishReason::EndTurn } else { FinishReason::ToolUse };
        match self.reason.as_deref() {
            // A call that was cut off must not be run; one that is whole may.
            Some("length" | "max_tokens" | "model_length") if self.calls.is_empty() || !whole => {
                FinishReason::MaxTokens
            }
            Some("content_filter") if self.calls.is_empty() || !whole => FinishReason::Refused,
            // `stop`, `tool_calls`, `function_call` and the rest: vendors mix them up, the calls decide.
            Some(_) | None => natural,
        }
    }
}

fn is_streamed(key: &str) -> bool {
    matches!(key, "text" | "summary" | "data")
}

fn is_object(text: &str) -> bool {
    serde_json::from_str::<serde_json::Map<String, Value>>(text).is_ok()
}

fn text_delta(text: &str, out: &mut VecDeque<Delta>) {
    if !text.is_empty() {
        out.push_back(Delta::Text(text.to_owned()));
    }
}

fn content_item(item: &Value, out: &mut VecDeque<Delta>) {
    match item["type"].as_str() {
        Some("thinking") => {
            let thoughts = item["thinking"].as_array().into_iter().flatten();
            let words: String = thoughts.filter_map(|thought| thought["text"].as_str()).collect();
            if !words.is_empty() {
                out.push_back(Delta::Reasoning(words));
            }
        }
        Some(_) | None => text_delta(item["text"].as_str().unwrap_or_default(), out),
    }
}

/// The usage in a chunk, wherever the vendor puts it.
fn tokens(chunk: &Value) -> Option<Tokens> {
    let places = [&chunk["usage"], &chunk["x_groq"]["usage"], &chunk["choices"][0]["usage"]];
    let usage = places.into_iter().find(|usage| usage["prompt_tokens"].is_u64())?;
    let first = |values: &[&Value]| values.iter().find_map(|value| value.as_u64()).unwrap_or(0);
    let (input, output) = (&usage["prompt_tokens_details"], &usage["completion_tokens_details"]);
    let prompt = first(&[&usage["prompt_tokens"]]);
    let reasoning = first(&[&output["reasoning_tokens"], &usage["reasoning_tokens"]]);
    let mut completion = first(&[&usage["completion_tokens"]]);
    // Some count reasoning beside the answer; the total tells.
    if reasoning > 0 && first(&[&usage["total_tokens"]]) == prompt.saturating_add(completion).saturating_add(reasoning)
    {
        completion = completion.saturating_add(reasoning);
    }
    let cache_read =
        first(&[&input["cached_tokens"], &usage["prompt_cache_hit_tokens"], &usage["cached_tokens"]]).min(prompt);
    let cache_write =
        first(&[&input["cache_write_tokens"], &input["cache_creation_tokens"], &usage["cache_creation_input_tokens"]]);
    Some(Tokens { prompt, completion, cache_read, cache_write: cache_write.min(prompt - cache_read), reasoning })
}
