//! The script that `mock/script` plays: its format, and the place in it.

use std::{collections::HashMap, path::PathBuf, sync::Mutex, time::Duration};

use serde::Deserialize;
use serde_json::Value;

use super::{
    Delta, ProviderError, Request, http,
    mock::{self, Act},
};
use crate::domain::{
    id::MessageId,
    message::Role,
    part::{FinishReason, Part},
    usage::Tokens,
};

/// A script file and the place in it. It is read again when it changed, and then played from its start.
pub(super) struct Script {
    file: PathBuf,
    // Held for a lookup; the file is read before.
    place: Mutex<Place>,
}

#[derive(Default)]
struct Place {
    /// The text that the positions are about.
    text: String,
    /// For each group of answers (those with the same `match`): how many were played.
    played: HashMap<Option<String>, usize>,
    /// The user message that was answered last.
    message: Option<MessageId>,
}

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    answers: Vec<Answer>,
    /// Milliseconds before each word.
    #[serde(default = "default_delay")]
    delay_ms: u64,
}

/// What one model call gets.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    /// A part of the user's last text (in any case) that this is an answer to.
    #[serde(default, rename = "match")]
    matches: Option<String>,
    /// Milliseconds before each word of this answer.
    #[serde(default)]
    delay_ms: Option<u64>,
    steps: Vec<Step>,
}

/// One thing after another.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Step {
    /// Words, streamed one at a time.
    Text(String),
    /// Reasoning, streamed likewise.
    Reasoning(String),
    /// Tool calls; the names and arguments go through unchanged.
    ToolCalls(Vec<Call>),
    /// What the call used; made up if absent.
    Usage(Counts),
    /// Why it ends; `tool_use` after tool calls and `end_turn` without, if absent.
    Finish(Ending),
    /// Silence for so many milliseconds, or for ever.
    Stall(Stall),
    /// The connection breaks.
    Cut(Always),
    /// A chunk that is no JSON.
    Malformed(Always),
    /// An error, as the provider would answer it.
    Error(Failure),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    name: String,
    #[serde(default = "empty_object")]
    input: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct Counts {
    prompt: u64,
    completion: u64,
    cache_read: u64,
    cache_write: u64,
    reasoning: u64,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Ending {
    EndTurn,
    Stop,
    ToolUse,
    MaxTokens,
    Refused,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a number of milliseconds or `forever`")]
enum Stall {
    Milliseconds(u64),
    For(Forever),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Forever {
    Forever,
}

/// `true`, since a step has a value.
#[derive(Deserialize)]
#[serde(try_from = "bool")]
struct Always;

impl TryFrom<bool> for Always {
    type Error = &'static str;

    fn try_from(value: bool) -> Result<Self, Self::Error> {
        if value { Ok(Self) } else { Err("leave the step out in place of `false`") }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Failure {
    status: u16,
    #[serde(default)]
    message: Option<String>,
    /// In seconds.
    #[serde(default)]
    retry_after: Option<f64>,
}

fn default_delay() -> u64 {
    15
}

fn empty_object() -> Value {
    Value::Object(serde_json::Map::new())
}

impl Script {
    pub(super) fn new(file: PathBuf) -> Self {
        Self { file, place: Mutex::default() }
    }

    /// What the next model call gets.
    pub(super) async fn next(&self, request: &Request) -> Result<Vec<Act>, ProviderError> {
        // A title or a summary is no part of the play.
        if request.tools.is_empty() {
            let said = "A scripted conversation";
            let mut acts: Vec<Act> = mock::say(said, Duration::ZERO, Delta::Text).collect();
            finish(&mut acts, request, None, FinishReason::EndTurn);
            return Ok(acts);
        }
        let file = self.file.display();
        let text = tokio::fs::read_to_string(&self.file)
            .await
            .map_err(|error| ProviderError::rejected(format!("the script {file} cannot be read: {error}")))?;
        let content: Content = serde_saphyr::from_str(&text).map_err(|error| {
            ProviderError::rejected(format!("the script {file} cannot be played: {}", error.without_snippet()))
        })?;
        let answer = self.choose(&content, text, request).ok_or_else(|| {
            ProviderError::rejected(format!("the script {file} has no answer to this message; add one without `match`"))
        })?;
        Ok(acts(answer, content.delay_ms, request))
    }

    /// The next answer of the group that the user's last text belongs to. A group that is used up starts over.
    fn choose<'a>(&self, content: &'a Content, text: String, request: &Request) -> Option<&'a Answer> {
        let message = request.messages.iter().rfind(|message| message.role == Role::User);
        let asked = message.map(|message| words(&message.parts).to_lowercase()).unwrap_or_default();
        let group = content
            .answers
            .iter()
            .filter_map(|answer| answer.matches.as_ref())
            .find(|matches| asked.contains(&matches.to_lowercase()));
        let answers: Vec<&Answer> = content.answers.iter().filter(|answer| answer.matches.as_ref() == group).collect();
        let mut place = self.place.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if place.text != text {
            *place = Place { text, ..Place::default() };
        }
        let id = message.map(|message| message.id.clone());
        let new_message = place.message != id;
        place.message = id;
        let played = place.played.entry(group.cloned()).or_default();
        // What answers a certain message starts from the top with each such message.
        if new_message && group.is_some() {
            *played = 0;
        }
        let answer = answers.get(*played % answers.len().max(1)).copied();
        *played += 1;
        answer
    }
}

fn words(parts: &[Part]) -> String {
    let texts = parts.iter().filter_map(|part| match part {
        Part::Text(text) => Some(text.text.as_str()),
        Part::Binary(_) | Part::ToolCall(_) | Part::ToolResult(_) | Part::Finish(_) | Part::Reasoning(_) => None,
    });
    texts.collect::<Vec<_>>().join("\n")
}

fn acts(answer: &Answer, delay_ms: u64, request: &Request) -> Vec<Act> {
    let delay = Duration::from_millis(answer.delay_ms.unwrap_or(delay_ms));
    let mut acts = Vec::new();
    let (mut calls, mut usage, mut ending) = (0, None, None);
    for step in &answer.steps {
        match step {
            Step::Text(text) => acts.extend(mock::say(text, delay, Delta::Text)),
            Step::Reasoning(text) => acts.extend(mock::say(text, delay, Delta::Reasoning)),
            Step::ToolCalls(list) => {
                for call in list {
                    acts.extend(mock::call(calls, &call.name, &call.input, delay));
                    calls += 1;
                }
            }
            Step::Usage(Counts { prompt, completion, cache_read, cache_write, reasoning }) => {
                usage = Some(Tokens {
                    prompt: *prompt,
                    completion: *completion,
                    cache_read: *cache_read,
                    cache_write: *cache_write,
                    reasoning: *reasoning,
                });
                acts.extend(usage.map(|usage| Act::Say(Duration::ZERO, Delta::Usage(usage))));
            }
            Step::Finish(reason) => ending = Some(*reason),
            Step::Stall(Stall::Milliseconds(time)) => acts.push(Act::Wait(Some(Duration::from_millis(*time)))),
            Step::Stall(Stall::For(Forever::Forever)) => acts.push(Act::Wait(None)),
            Step::Cut(Always) => return failing(acts, ProviderError::cut("mock")),
            Step::Malformed(Always) => return failing(acts, ProviderError::malformed("mock")),
            Step::Error(failure) => return failing(acts, failure.into()),
        }
    }
    let reason = match ending {
        Some(Ending::EndTurn) => FinishReason::EndTurn,
        Some(Ending::Stop) => FinishReason::Stop,
        Some(Ending::ToolUse) => FinishReason::ToolUse,
        Some(Ending::MaxTokens) => FinishReason::MaxTokens,
        Some(Ending::Refused) => FinishReason::Refused,
        None if calls > 0 => FinishReason::ToolUse,
        None => FinishReason::EndTurn,
    };
    finish(&mut acts, request, usage, reason);
    acts
}

fn failing(mut acts: Vec<Act>, error: ProviderError) -> Vec<Act> {
    acts.push(Act::Fail(error));
    acts
}

fn finish(acts: &mut Vec<Act>, request: &Request, usage: Option<Tokens>, reason: FinishReason) {
    if usage.is_none() {
        let (prompt, completion) = (mock::prompt_tokens(request), mock::completion_tokens(acts));
        let usage = Tokens { prompt, completion, ..Tokens::default() };
        acts.push(Act::Say(Duration::ZERO, Delta::Usage(usage)));
    }
    acts.push(Act::Say(Duration::ZERO, Delta::Finish(reason)));
}

impl From<&Failure> for ProviderError {
    fn from(failure: &Failure) -> Self {
        let message = match &failure.message {
            Some(message) => format!("mock answered {}: {message}", failure.status),
            None => format!("mock answered {}", failure.status),
        };
        Self {
            kind: http::kind_of_status(failure.status),
            message,
            status: Some(failure.status),
            retry_after: failure.retry_after.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        }
    }
}
