//! The agent's tools: one file a tool, one line in [`TOOLS`].

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    agent::Changes,
    id::{ToolCallId, TurnId},
    part::Binary,
    permission::{Access, Hidden},
    providers::ToolSpec,
    workspace::{PathError, Workspace},
};

mod bash;
mod command;
mod edit;
mod glob;
mod grep;
mod job;
mod kept;
mod ls;
mod processes;
mod shell;
mod view;
mod write;

pub(super) use processes::{Entry as Command, Processes};

/// The tools, in the order in which the model sees them.
pub(super) const TOOLS: &[Entry] = &[
    entry::<view::View>(),
    entry::<write::Write>(),
    entry::<edit::Edit>(),
    entry::<ls::Ls>(),
    entry::<glob::Glob>(),
    entry::<grep::Grep>(),
    entry::<bash::Bash>(),
    entry::<job::Job>(),
];

/// A tool of the agent. Its `Args` are documented for the model by their doc comments.
pub(super) trait Tool {
    /// The name that the model calls.
    const NAME: &'static str;
    /// Whether it only reads: such calls of one answer run side by side.
    const READ_ONLY: bool;
    /// The arguments. The doc comment of the type is the description that the model reads.
    type Args: DeserializeOwned + JsonSchema + Send;

    /// What a call would do, for its permission.
    fn access(args: &Self::Args) -> Access;

    /// Runs it.
    fn run(context: &ToolContext, args: Self::Args) -> impl Future<Output = Result<ToolOutput, ToolError>> + Send;
}

/// What a tool may use.
#[derive(Clone)]
pub(super) struct ToolContext {
    /// The workspace; every path goes through it.
    pub workspace: Workspace,
    /// What the tools of a session remember between calls.
    pub memory: Arc<ToolMemory>,
    /// Ends when the turn is cancelled, and when its time is up. A tool that waits for anything waits for this too.
    pub cancel: CancellationToken,
    /// Ends when the turn is cancelled, and not when its time is up: jobs go on then.
    pub canceled: CancellationToken,
    /// Takes raw output as it comes, to be shown while the tool runs. Its reader always drains it.
    pub output: mpsc::Sender<Bytes>,
    /// The commands that run.
    pub processes: Processes,
    /// The turn that runs.
    pub turn: TurnId,
    /// Whether the model sees images.
    pub images: bool,
    /// Variables that no child process gets: provider keys and tokens.
    pub secret_variables: Arc<[String]>,
    /// A folder for temporary files, outside the workspace.
    pub scratch: PathBuf,
    /// Where changes of files are noted.
    pub changes: Changes,
    /// The call that runs.
    pub call: Option<ToolCallId>,
    /// What deny rules keep from it.
    pub hidden: Hidden,
}

impl ToolContext {
    /// Keeps others from writing, once they let it. It may have waited longer than its turn: then nothing is to be written.
    fn writing(&self) -> Result<MutexGuard<'_, ()>, ToolError> {
        let guard = self.workspace.writing();
        if self.cancel.is_cancelled() { Err(ToolError::canceled()) } else { Ok(guard) }
    }
}

/// What the tools of a session remember between calls. Reset forgets it.
#[derive(Default)]
pub(super) struct ToolMemory {
    /// SHA-256 of each file's content as the model last saw it, by canonical workspace path.
    pub seen: Mutex<HashMap<PathBuf, [u8; 32]>>,
    /// The working directory of commands, absolute; the workspace root if none.
    pub directory: Mutex<Option<PathBuf>>,
}

/// What a tool answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ToolOutput {
    /// In words for the model.
    pub content: String,
    /// Figures for clients, such as `{"exit_code": 0}`.
    pub metadata: Option<Value>,
    /// An image that the model may look at.
    pub image: Option<Binary>,
    /// It failed, and yet has figures to show: a command that ran out of time.
    pub is_error: bool,
}

/// Why a tool did not do what it was asked.
#[derive(Debug)]
pub(super) enum ToolError {
    /// The model can act on this: a sentence for it.
    ForModel(String),
    /// Our own fault: ends the turn; the log gets the cause.
    Fatal(Box<dyn std::error::Error + Send + Sync>),
}

/// A tool as the agent holds it: typed arguments hidden behind JSON.
pub(super) struct Entry {
    /// The name that the model calls.
    pub name: &'static str,
    /// Whether it only reads.
    pub read_only: bool,
    schema: fn() -> Value,
    access: fn(Value) -> Result<Access, ToolError>,
    run: for<'a> fn(&'a ToolContext, Value) -> BoxFuture<'a, Result<ToolOutput, ToolError>>,
}

/// The tool of that name.
pub(super) fn find(name: &str) -> Option<&'static Entry> {
    TOOLS.iter().find(|tool| tool.name == name)
}

/// What a model is told that calls a tool which does not exist.
pub(super) fn unknown(name: &str) -> ToolError {
    let names: Vec<&str> = TOOLS.iter().map(|tool| tool.name).collect();
    ToolError::ForModel(format!("there is no tool {name:?}; the tools are {}", names.join(", ")))
}

impl Entry {
    /// The tool as the model sees it.
    pub(super) fn spec(&self) -> ToolSpec {
        let spec = SPECS.iter().find(|spec| spec.name == self.name);
        ToolSpec {
            name: self.name,
            description: spec.map_or("", |spec| spec.description.as_str()),
            schema: spec.map_or_else(Value::default, |spec| spec.schema.clone()),
        }
    }

    /// What a call with these arguments would do.
    pub(super) fn access(&self, input: Value) -> Result<Access, ToolError> {
        (self.access)(input)
    }

    /// Runs it. Arguments that do not fit are the model's mistake and are told to it.
    pub(super) async fn run(&self, context: &ToolContext, input: Value) -> Result<ToolOutput, ToolError> {
        (self.run)(context, input).await
    }
}

impl ToolMemory {
    /// Notes that the model has seen or written this content.
    fn saw(&self, canonical: PathBuf, hash: [u8; 32]) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(canonical, hash);
    }

    /// Whether the model knows the content that it is about to replace.
    fn knows(&self, canonical: &Path, hash: [u8; 32]) -> Result<(), ToolError> {
        let path = canonical.display();
        match self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(canonical) {
            Some(seen) if *seen == hash => Ok(()),
            Some(_) => Err(ToolError::model(format!("{path} has changed since you last saw it; view it again first"))),
            None => Err(ToolError::model(format!("{path} exists and you have not viewed it; view it first"))),
        }
    }
}

impl ToolOutput {
    /// Words of ours in place of an answer.
    pub(super) fn told(content: String) -> Self {
        Self::words(content)
    }

    fn words(content: impl Into<String>) -> Self {
        Self { content: content.into(), ..Self::default() }
    }
}

impl ToolError {
    fn model(words: impl Into<String>) -> Self {
        Self::ForModel(words.into())
    }

    fn canceled() -> Self {
        Self::model("canceled before it was done")
    }
}

impl From<PathError> for ToolError {
    fn from(error: PathError) -> Self {
        Self::ForModel(error.to_string())
    }
}

/// What is derived of a tool once: its description lives as long as the program.
struct Spec {
    name: &'static str,
    description: String,
    schema: Value,
}

static SPECS: LazyLock<Vec<Spec>> = LazyLock::new(|| {
    let spec = |tool: &Entry| {
        let mut schema = (tool.schema)();
        let description = match schema.as_object_mut().and_then(|object| object.remove("description")) {
            Some(Value::String(text)) => text,
            Some(_) | None => String::new(),
        };
        Spec { name: tool.name, description, schema }
    };
    TOOLS.iter().map(spec).collect()
});

const fn entry<T: Tool + 'static>() -> Entry {
    Entry { name: T::NAME, read_only: T::READ_ONLY, schema: schema::<T>, access: access::<T>, run: run::<T> }
}

fn schema<T: Tool>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.meta_schema = None;
        settings.inline_subschemas = true;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T::Args>().to_value();
    plain(&mut schema);
    schema
}

/// Takes out what tells a model nothing: titles, the widths of our integers, and that an argument which may be left out
/// may be null.
fn plain(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    object.remove("title");
    object.remove("format");
    if object.get("default").is_some_and(Value::is_null) {
        object.remove("default");
    }
    if let Some(Value::Array(kinds)) = object.get_mut("type") {
        kinds.retain(|kind| kind != "null");
        if let [only] = kinds.as_slice() {
            let only = only.clone();
            object.insert("type".to_owned(), only);
        }
    }
    if let Some(items) = object.get_mut("items") {
        plain(items);
    }
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        properties.values_mut().for_each(plain);
    }
}

fn access<T: Tool>(input: Value) -> Result<Access, ToolError> {
    Ok(T::access(&arguments::<T>(input)?))
}

fn run<T: Tool + 'static>(context: &ToolContext, input: Value) -> BoxFuture<'_, Result<ToolOutput, ToolError>> {
    Box::pin(async move { T::run(context, arguments::<T>(input)?).await })
}

fn arguments<T: Tool>(input: Value) -> Result<T::Args, ToolError> {
    let name = T::NAME;
    let input = match input {
        // What was no JSON when it came from the model stays the text that it was.
        Value::String(text) if text.trim().is_empty() => Value::Object(serde_json::Map::new()),
        Value::String(text) => {
            let why = match serde_json::from_str::<serde::de::IgnoredAny>(&text) {
                Ok(_) => "they are a string".to_owned(),
                Err(error) => error.to_string(),
            };
            let words = format!("the arguments of {name} are not a JSON object ({why}); send the call again");
            return Err(ToolError::model(words));
        }
        Value::Null => Value::Object(serde_json::Map::new()),
        object @ Value::Object(_) => object,
        Value::Array(_) | Value::Bool(_) | Value::Number(_) => {
            return Err(ToolError::model(format!(
                "the arguments of {name} are not a JSON object; send the call again"
            )));
        }
    };
    serde_path_to_error::deserialize(input).map_err(|error| {
        let (path, problem) = (error.path().to_string(), error.inner());
        // A dot is the whole: serde names the missing or unknown field itself.
        let place = if path == "." || path == "?" { String::new() } else { format!("{path}: ") };
        ToolError::model(format!("wrong arguments for {name}: {place}{problem}"))
    })
}
