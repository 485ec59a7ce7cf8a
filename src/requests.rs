//! Requests as the log and the metrics tell of them: one line each when it has ended, and a count. Below both doors, which
//! say what only they know: the template of the route, the code of a call.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Instant,
};

/// The way that a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Door {
    Rest,
    Grpc,
    GrpcWeb,
}

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Code {
    /// By this HTTP status.
    Http(u16),
    /// By this gRPC status.
    Grpc(&'static str),
    /// Not to the end: the client went before.
    Gone,
}

/// What is counted together. All of it is of closed sets: nobody can make it grow by what they send.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    pub(crate) door: Door,
    pub(crate) method: &'static str,
    pub(crate) route: Cow<'static, str>,
    pub(crate) code: Code,
}

/// How many requests of each kind have ended.
#[derive(Clone, Default)]
pub(crate) struct Counts(Arc<Mutex<BTreeMap<Kind, u64>>>);

impl Counts {
    pub(crate) fn read(&self) -> BTreeMap<Kind, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn add(&self, kind: Kind) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default() += 1;
    }
}

/// One request, among the extensions of the request and with its answer. When the last clone goes it is over, and told.
#[derive(Clone)]
pub(crate) struct Record(Arc<Inner>);

struct Inner {
    counts: Counts,
    began: Instant,
    request_id: String,
    door: Door,
    method: &'static str,
    route: OnceLock<Cow<'static, str>>,
    code: OnceLock<Code>,
    /// The id of the token that was shown.
    token: OnceLock<Arc<str>>,
}

impl Record {
    pub(crate) fn new(counts: Counts, request_id: String, door: Door, method: &'static str) -> Self {
        let (route, code, token) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Self(Arc::new(Inner { counts, began: Instant::now(), request_id, door, method, route, code, token }))
    }

    /// The template of its route, or the name of its RPC. The first one counts.
    pub(crate) fn set_route(&self, route: impl Into<Cow<'static, str>>) {
        let _ = self.0.route.set(route.into());
    }

    /// How it was answered. The first one counts.
    pub(crate) fn set_code(&self, code: Code) {
        let _ = self.0.code.set(code);
    }

    /// The id of the token that it showed.
    pub(crate) fn set_token(&self, id: Arc<str>) {
        let _ = self.0.token.set(id);
    }

    /// Whether it came as a call.
    pub(crate) fn is_call(&self) -> bool {
        self.0.door != Door::Rest
    }
}

impl Door {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Rest => "rest",
            Self::Grpc => "grpc",
            Self::GrpcWeb => "grpc_web",
        }
    }
}

impl Code {
    pub(crate) fn text(self) -> Cow<'static, str> {
        match self {
            Self::Http(status) => status.to_string().into(),
            Self::Grpc(name) => name.into(),
            Self::Gone => "gone".into(),
        }
    }
}

/// Routes of probes, which ask often and say little.
const PROBES: [&str; 6] = [
    "/health",
    "/livez",
    "/readyz",
    "opencode.v1.OpenCodeService/Health",
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
];

impl Drop for Inner {
    fn drop(&mut self) {
        let route = self.route.take().unwrap_or(Cow::Borrowed("other"));
        let code = self.code.take().unwrap_or(Code::Gone);
        let ms = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX) as f64 / 1000.0;
        let token = self.token.get().map(|id| &**id).unwrap_or_default();
        let (request_id, method, text) = (&*self.request_id, self.method, code.text());
        // Beside any span: all that there is to say of it is here.
        macro_rules! tell {
            ($level:ident) => {
                tracing::$level!(parent: None, request_id, method, route = &*route, code = &*text, ms, token, "request")
            };
        }
        if PROBES.contains(&&*route) {
            tell!(debug);
        } else {
            tell!(info);
        }
        self.counts.add(Kind { door: self.door, method, route, code });
    }
}
