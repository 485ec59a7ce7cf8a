//! The models that are built in: `mock/demo` plays a sensible turn with the real tools, `mock/script` plays a file.

use std::{collections::VecDeque, fmt, future, path::PathBuf, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Answer, Delta, ProviderError, Request, StallLimits, script::Script};
use crate::domain::{
    message::{Message, Role},
    part::{FinishReason, Part},
    usage::Tokens,
};

/// How long `mock/demo` takes for a word.
const WORD_DELAY: Duration = Duration::from_millis(15);

/// A model that is built in.
#[derive(Clone)]
pub(crate) struct Mock {
    kind: Kind,
    /// How long it may be silent.
    pub limits: StallLimits,
}

#[derive(Clone)]
enum Kind {
    Demo,
    Script(Arc<Script>),
}

impl Mock {
    /// `mock/demo`: needs no key and no file; what it does is decided from the history alone.
    pub(crate) fn demo(limits: StallLimits) -> Self {
        Self { kind: Kind::Demo, limits }
    }

    /// `mock/script`: plays the script in this file. Clones share their place in it.
    pub(crate) fn script(file: PathBuf, limits: StallLimits) -> Self {
        Self { kind: Kind::Script(Arc::new(Script::new(file))), limits }
    }

    pub(super) fn stream(&self, request: &Request) -> Answer {
        match &self.kind {
            Kind::Demo => play(demo(request)),
            Kind::Script(script) => {
                let (script, request) = (Arc::clone(script), request.clone());
                let acts = async move { script.next(&request).await };
                Box::pin(stream::once(acts).flat_map(|acts| match acts {
                    Ok(acts) => play(acts),
                    Err(error) => Box::pin(stream::iter([Err(error)])),
                }))
            }
        }
    }
}

impl fmt::Debug for Mock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Demo => "mock/demo",
            Kind::Script(_) => "mock/script",
        })
    }
}

/// What a mock does next.
pub(super) enum Act {
    /// Says something after a while.
    Say(Duration, Delta),
    /// Is silent; for ever if `None`.
    Wait(Option<Duration>),
    /// Fails, which is its last act.
    Fail(ProviderError),
}

fn play(acts: Vec<Act>) -> Answer {
    Box::pin(stream::unfold(VecDeque::from(acts), |mut acts| async move {
        loop {
            match acts.pop_front()? {
                Act::Say(after, delta) => {
                    if !after.is_zero() {
                        sleep(after).await;
                    }
                    return Some((Ok(delta), acts));
                }
                Act::Wait(Some(time)) => sleep(time).await,
                Act::Wait(None) => future::pending().await,
                Act::Fail(error) => return Some((Err(error), VecDeque::new())),
            }
        }
    }))
}

/// Words, one at a time.
pub(super) fn say(text: &str, after: Duration, delta: impl Fn(String) -> Delta) -> impl Iterator<Item = Act> {
    text.split_inclusive(char::is_whitespace).map(move |word| Act::Say(after, delta(word.to_owned())))
}

/// A tool call, its arguments streamed.
pub(super) fn call(index: usize, name: &str, input: &Value, after: Duration) -> impl Iterator<Item = Act> {
    let begin = Act::Say(after, Delta::ToolCall { index, name: name.to_owned() });
    let input: Vec<Act> = say(&input.to_string(), after, |text| Delta::ToolInput { index, text }).collect();
    std::iter::once(begin).chain(input)
}

/// A token has about four bytes; good enough for figures that nobody pays for.
pub(super) fn prompt_tokens(request: &Request) -> u64 {
    let parts = request.messages.iter().flat_map(|message| &message.parts);
    let bytes: usize = parts
        .map(|part| match part {
            Part::Text(text) => text.text.len(),
            Part::Binary(_) => 4_000,
            Part::ToolCall(call) => call.input_text().len(),
            Part::ToolResult(result) => result.content.len(),
            Part::Reasoning(reasoning) => reasoning.thinking.len(),
            Part::Finish(_) => 0,
        })
        .sum();
    let tools: usize = request.tools.iter().map(|tool| tool.description.len() + 200).sum();
    ((request.system.len() + tools + bytes) / 4).max(1) as u64
}

/// What was said, in tokens.
pub(super) fn completion_tokens(acts: &[Act]) -> u64 {
    acts.iter().filter(|act| matches!(act, Act::Say(..))).count().max(1) as u64
}

/// The next step of the demonstration.
fn demo(request: &Request) -> Vec<Act> {
    let turn = Turn::of(request);
    let mut acts = Vec::new();
    let mut answer = turn.next();
    // Who may call less (a sub-agent, a title) gets words.
    if answer.calls.iter().any(|(name, _)| !request.tools.iter().any(|tool| tool.name == *name)) {
        answer = Step { text: "A demonstration without tools.".into(), ..Step::default() };
    }
    if turn.results.is_empty() && !answer.calls.is_empty() {
        acts.extend(say("I look around first, then I make a small change and check it.", WORD_DELAY, Delta::Reasoning));
    }
    acts.extend(say(&answer.text, WORD_DELAY, Delta::Text));
    for (index, (name, input)) in answer.calls.iter().enumerate() {
        acts.extend(call(index, name, input, WORD_DELAY));
    }
    let completion = completion_tokens(&acts);
    let usage = Tokens { prompt: prompt_tokens(request), completion, ..Tokens::default() };
    acts.push(Act::Say(Duration::ZERO, Delta::Usage(usage)));
    let reason = if answer.calls.is_empty() { FinishReason::EndTurn } else { FinishReason::ToolUse };
    acts.push(Act::Say(Duration::ZERO, Delta::Finish(reason)));
    acts
}

/// What the demonstration knows of its turn.
struct Turn<'a> {
    /// The tool messages of this turn: one for each step that was taken.
    results: Vec<&'a Message>,
    /// Paths that this turn wrote or tried to, in order.
    tried: Vec<&'a str>,
    /// Paths that earlier turns wrote.
    earlier: Vec<&'a str>,
}

#[derive(Default)]
struct Step {
    text: String,
    calls: Vec<(&'static str, Value)>,
}

const FIRST_LINES: &str = "Hello from the mock model.\nThis line will be edited.\n";

impl<'a> Turn<'a> {
    fn of(request: &'a Request) -> Self {
        let start = request.messages.iter().rposition(|message| message.role == Role::User).unwrap_or(0);
        let (before, after) = request.messages.split_at(start);
        Self {
            results: after.iter().filter(|message| message.role == Role::Tool).collect(),
            tried: written(after),
            earlier: written(before),
        }
    }

    fn next(&self) -> Step {
        let Some(last) = self.results.last() else {
            return Step {
                text: "This is a demonstration without a real model. Let me look at the workspace first.".into(),
                calls: vec![("ls", json!({"path": "."}))],
            };
        };
        let (failure, file) = (failure(last), self.tried.last().copied());
        let taken = self.results.len();
        match (file, failure) {
            // Looking around may fail; the demonstration goes on with what it has.
            (None, _) => self.write("Now I write a small file."),
            // There is such a file after all. (A denied permission is an answer, not a reason to ask again.)
            (Some(_), Some(why)) if self.tried.len() == taken - 1 && taken < 4 && is_taken(why) => {
                self.write("That name is taken; I try another.")
            }
            (Some(file), Some(why)) => {
                Step { text: format!("I could not finish the demonstration with {file}: {why}"), ..Step::default() }
            }
            (Some(file), None) => match taken - self.tried.len() {
                1 => Step {
                    text: format!("Next I edit {file}."),
                    calls: vec![(
                        "edit",
                        json!({
                            "path": file,
                            "old_string": "This line will be edited.",
                            "new_string": "This line was edited.",
                        }),
                    )],
                },
                2 => Step {
                    text: "And I check the result with two commands.".into(),
                    calls: vec![
                        ("bash", json!({"command": format!("ls -l {file}"), "description": "Show the new file"})),
                        ("bash", json!({"command": format!("wc -c {file}"), "description": "Count its bytes"})),
                    ],
                },
                _ => Step {
                    text: format!(
                        "Done. I looked at the workspace, wrote {file}, edited one line of it and checked it. \
                         Set a provider's key to talk to a real model."
                    ),
                    ..Step::default()
                },
            },
        }
    }

    /// Writes a file whose name neither the listing nor an earlier step has.
    fn write(&self, text: &str) -> Step {
        let listing = self.results.first().map(|message| words(message)).unwrap_or_default();
        let taken = |name: &str| {
            let known = self.earlier.iter().chain(&self.tried).any(|path| *path == name);
            known || listing.split(|c: char| c.is_whitespace() || c == '/').any(|word| word == name)
        };
        let names = (1_u32..).map(|n| if n == 1 { "hello.txt".to_owned() } else { format!("hello-{n}.txt") });
        let file = names.into_iter().find(|name| !taken(name)).unwrap_or_default();
        Step { text: text.into(), calls: vec![("write", json!({"path": file, "content": FIRST_LINES}))] }
    }
}

/// Whether a refusal to write is about a file that is there.
fn is_taken(why: &str) -> bool {
    ["exist", "view"].iter().any(|word| why.to_lowercase().contains(word))
}

fn written(messages: &[Message]) -> Vec<&str> {
    messages
        .iter()
        .flat_map(Message::tool_calls)
        .filter(|call| call.name == "write")
        .filter_map(|call| call.input["path"].as_str())
        .collect()
}

fn words(message: &Message) -> String {
    let results = message.parts.iter().filter_map(|part| match part {
        Part::ToolResult(result) => Some(result.content.as_str()),
        Part::Text(_) | Part::Binary(_) | Part::ToolCall(_) | Part::Finish(_) | Part::Reasoning(_) => None,
    });
    results.collect::<Vec<_>>().join("\n")
}

/// Why a tool of this message failed, if one did.
fn failure(message: &Message) -> Option<&str> {
    message.parts.iter().find_map(|part| match part {
        Part::ToolResult(result) if result.is_error => Some(result.content.as_str()),
        Part::ToolResult(_)
        | Part::Text(_)
        | Part::Binary(_)
        | Part::ToolCall(_)
        | Part::Finish(_)
        | Part::Reasoning(_) => None,
    })
}
