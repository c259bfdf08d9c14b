//! Which handler a call goes to, how much of the server it may take, and what is counted and logged about it.
//!
//! A message takes a place once it is whole, and there are as many places as seats; while there is none, nothing is read.
//! What is being read is charged. Streams have places of their own.

use std::{
    borrow::Cow,
    convert::Infallible,
    net::IpAddr,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context as Task, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::{HeaderMap, Request, Response, body::Incoming};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Sleep, sleep_until, timeout_at},
};
use tonic::{Code, Status, body::Body, codegen::Service};
use tonic_health::pb::health_server::{self, HealthServer};

use super::{
    health::Health,
    inference::{Ask, Inference},
    messages::{Limits, Messages},
    places::{Place, Places},
    proto::{
        DESCRIPTORS,
        grpc_inference_service_server::{self, GrpcInferenceServiceServer},
    },
    status,
    traced::{self, Timelines},
};
use crate::{
    access::Scope,
    batch::{Client, Terms},
    memory::{Charge, Full},
    server::{
        Context, WARNING,
        gate::Who,
        terms::{self, DEADLINE, GRPC_TIMEOUT},
    },
    service::photos::RANDOM_WEIGHTS,
    trace::{Ended, Span, Stretch},
};

/// Most bytes of a message that holds no tensors.
const SMALL: usize = 64 << 10;

/// Streams open at once, of all clients; one has four fifths of them at most.
const STREAMS: usize = 1024;

/// Watches of health open at once, of all clients. They have places of their own, because nobody needs a key for one.
const WATCHES: usize = 256;

/// Methods that anybody may call: whether the server lives and is ready.
const OPEN: [&str; 2] = ["ServerLive", "ServerReady"];

/// When a call that found no place may come again.
const PLACE_AGAIN: Duration = Duration::from_millis(500);

/// Scoring tells by itself that a deadline has passed; what else takes longer than this beyond it is cut.
const SLACK: Duration = Duration::from_millis(50);

/// About as many bytes as a call takes from its head to the end of its answer, beside its messages and that answer, and
/// those of a header beside its text.
const HANDLING: usize = 8 << 10;
const HEADER: usize = 64;

/// As many bytes of a probe's head are not charged; those of orchestrators take some hundred.
const PROBE: usize = 2 << 10;

/// The end of a stream that has none.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

const REFLECTION: &str = "grpc.reflection.v1.ServerReflection";
const REFLECTION_ALPHA: &str = "grpc.reflection.v1alpha.ServerReflection";

/// Methods that are neither scoring nor a stream.
const PLAIN: [&str; 8] = [
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
];

/// Methods that take as long as reading a model's files does.
const SLOW: [&str; 2] = ["RepositoryModelLoad", "RepositoryModelUnload"];

/// What kind of call it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// One small message and an answer at once.
    Plain,
    /// As `Plain`, in its own time.
    Slow,
    /// One message of any size, scored.
    Infer,
    /// One message of any size after another.
    InferStream,
    /// `Check` of `grpc.health.v1`.
    Health,
    /// `Watch` of `grpc.health.v1`.
    HealthWatch,
    /// Server reflection.
    Reflection,
    /// Server reflection under its former name.
    ReflectionAlpha,
    /// Nothing that is served.
    Unknown,
}

impl Kind {
    fn streams(self) -> bool {
        matches!(self, Self::InferStream | Self::HealthWatch | Self::Reflection | Self::ReflectionAlpha)
    }

    /// The scope that a caller of `method` needs where keys are on.
    fn scope(self, method: &str) -> Option<Scope> {
        match self {
            Self::Health | Self::HealthWatch | Self::Unknown => None,
            Self::Plain if OPEN.contains(&method) => None,
            Self::Slow => Some(Scope::Admin),
            Self::Plain | Self::Infer | Self::InferStream | Self::Reflection | Self::ReflectionAlpha => {
                Some(Scope::Score)
            }
        }
    }
}

/// The kind of the call to `path`, and its value in the `method` label.
fn route(path: &str) -> (Kind, &'static str) {
    let unknown = (Kind::Unknown, "unknown");
    let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.split_once('/')) else {
        return unknown;
    };
    let known = |names: &[&'static str]| names.iter().find(|name| **name == method).copied();
    match (service, method) {
        (grpc_inference_service_server::SERVICE_NAME, "ModelInfer") => (Kind::Infer, "ModelInfer"),
        (grpc_inference_service_server::SERVICE_NAME, "ModelStreamInfer") => {
            (Kind::InferStream, "ModelStreamInfer")
        }
        (grpc_inference_service_server::SERVICE_NAME, _) => {
            let plain = known(&PLAIN).map(|name| (Kind::Plain, name));
            plain.or_else(|| known(&SLOW).map(|name| (Kind::Slow, name))).unwrap_or(unknown)
        }
        (health_server::SERVICE_NAME, "Check") => (Kind::Health, "HealthCheck"),
        (health_server::SERVICE_NAME, "Watch") => (Kind::HealthWatch, "HealthWatch"),
        (REFLECTION, "ServerReflectionInfo") => (Kind::Reflection, "ServerReflectionInfo"),
        (REFLECTION_ALPHA, "ServerReflectionInfo") => (Kind::ReflectionAlpha, "ServerReflectionInfo"),
        _ => unknown,
    }
}

/// The method with its service; `_OTHER`, as the conventions have it, for what is not served.
fn full_name(kind: Kind, method: &'static str) -> Cow<'static, str> {
    let service = match kind {
        Kind::Plain | Kind::Slow | Kind::Infer | Kind::InferStream => {
            grpc_inference_service_server::SERVICE_NAME
        }
        Kind::Health | Kind::HealthWatch => health_server::SERVICE_NAME,
        Kind::Reflection => REFLECTION,
        Kind::ReflectionAlpha => REFLECTION_ALPHA,
        Kind::Unknown => return "_OTHER".into(),
    };
    format!("{service}/{}", method.strip_prefix("Health").unwrap_or(method)).into()
}

/// Whether machines ask it every few seconds: traces of that tell nobody anything.
fn is_polled(kind: Kind, method: &str) -> bool {
    matches!(kind, Kind::Health | Kind::HealthWatch)
        || matches!(method, "ServerLive" | "ServerReady" | "ModelReady")
}

type Handler = Box<dyn Fn(Request<Body>) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

fn handler<S>(service: S) -> Handler
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    Box::new(move |request| {
        let mut service = service.clone();
        async move {
            match service.call(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        }
        .boxed()
    })
}

/// Answers calls.
pub(super) struct Calls {
    context: Arc<Context>,
    closing: watch::Receiver<bool>,
    /// Of messages that are under way.
    places: Arc<Semaphore>,
    streams: Arc<Places>,
    watches: Arc<Places>,
    plain: Handler,
    infer: Handler,
    health: Handler,
    reflection: Handler,
    reflection_alpha: Handler,
}

impl Calls {
    /// Streams end when `closing` turns true.
    pub(super) fn new(context: Arc<Context>, closing: &watch::Sender<bool>) -> Self {
        let closing = closing.subscribe();
        let places = Arc::new(Semaphore::new(context.services.seats().max(1)));
        let inference = Inference { context: context.clone(), places: places.clone() };
        let health = Health { context: context.clone(), closing: closing.clone() };
        let server = || GrpcInferenceServiceServer::new(inference.clone());
        let described = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let bug = "bug: the descriptors were made by the compiler of protobuf";
        let reflection = described().build_v1().expect(bug).max_decoding_message_size(SMALL);
        let reflection_alpha = described().build_v1alpha().expect(bug).max_decoding_message_size(SMALL);
        Self {
            plain: handler(server().max_decoding_message_size(SMALL)),
            infer: handler(server().max_decoding_message_size(context.limits.max_body)),
            health: handler(HealthServer::new(health).max_decoding_message_size(SMALL)),
            reflection: handler(reflection),
            reflection_alpha: handler(reflection_alpha),
            streams: Places::new(STREAMS),
            watches: Places::new(WATCHES),
            places,
            closing,
            context,
        }
    }

    /// Answers one call: finds its handler, contains a panic, times, counts and logs what came of it.
    pub(super) async fn answer(&self, request: Request<Incoming>, peer: IpAddr) -> Response<Ending> {
        let arrived = Instant::now();
        let (kind, method) = route(request.uri().path());
        let mut count = Count::begin((kind, method), &request, arrived, &self.context);
        let cut = count.cut.clone();
        let handled = async {
            let scope = kind.scope(method);
            let admitted = self.context.admit(request.headers(), peer, scope);
            let who = admitted.map_err(|denied| status::denied(&denied))?;
            self.handle(kind, request, &who, &cut, arrived).await
        };
        let handled = AssertUnwindSafe(handled).catch_unwind().await;
        let handled = handled.unwrap_or_else(|_logged_by_the_panic_hook| Err(status::panicked()));
        let (mut response, bounds) = handled.unwrap_or_else(|status| (status.into_http(), Bounds::default()));
        if self.context.services.photos().is_ok_and(|photos| photos.model.random) {
            response.headers_mut().insert(WARNING, http::HeaderValue::from_static(RANDOM_WEIGHTS));
        }
        count.see(response.headers());
        count.timelines = response.extensions_mut().remove();
        response.map(|body| Ending { body: Some(body), count, bounds })
    }

    async fn handle(
        &self,
        kind: Kind,
        request: Request<Incoming>,
        who: &Who,
        cut: &Cut,
        arrived: Instant,
    ) -> Result<(Response<Body>, Bounds), Status> {
        let Context { limits, clients, .. } = &*self.context;
        let headers = request.headers();
        let bad = |error: terms::BadHeader| Status::invalid_argument(error.to_string());
        let mut terms = terms::of(headers, who, arrived, limits, clients).map_err(bad)?;
        let asked = terms::timeout(headers, &GRPC_TIMEOUT).map_err(bad)?;
        let each = terms::timeout(headers, &DEADLINE).map_err(bad)?;
        let each = each.map_or(limits.deadline, |each| each.min(limits.max_deadline));
        let end = match kind {
            // Its requests are not admitted one by one, so that it may not outlive the key it came with for long.
            Kind::Reflection | Kind::ReflectionAlpha => {
                Some(arrived + asked.unwrap_or(limits.max_deadline).min(limits.max_deadline))
            }
            _ => asked.map(|asked| arrived + asked),
        };
        let charge = self.in_hand(kind, headers, &terms)?;
        if kind.streams() {
            terms.deadline = end.unwrap_or(arrived + FAR);
            let mut bounds = Bounds {
                end: end.map(|end| Box::pin(sleep_until(end.into()))),
                _place: Some(self.stream_place(kind, terms.client)?),
                written: Some(charge.another()),
                ..Bounds::default()
            };
            let until = |body| Until::new(body, self.closing.clone()).map_err(cut.note());
            let request = self.with_ask(kind, request, &charge, until, Ask::new(arrived, terms, each, who));
            bounds._in_hand = Some(charge);
            return Ok((self.handler(kind)(request).await, bounds));
        }
        let end = match kind {
            Kind::Unknown => return Err(unimplemented(request.uri().path())),
            Kind::Slow => end,
            Kind::Infer if self.places.available_permits() == 0 => return Err(no_place("requests")),
            _ => Some(terms.deadline + SLACK),
        };
        let request = self.with_ask(
            kind,
            request,
            &charge,
            |body| body.map_err(cut.note()),
            Ask::new(arrived, terms, each, who),
        );
        let answered = self.handler(kind)(request);
        let response = match end {
            Some(end) => timeout_at(end.into(), answered).await.map_err(|_elapsed| late())?,
            None => answered.await,
        };
        let mut response = response;
        let answer = response.extensions_mut().remove::<Arc<Charge>>();
        Ok((response, Bounds { answer, _in_hand: Some(charge), ..Bounds::default() }))
    }

    /// What a call is charged from its head to the end of its answer, beside its messages and that answer. Probes of a usual
    /// size are not: they are to be answered when nothing else is.
    fn in_hand(&self, kind: Kind, headers: &HeaderMap, terms: &Terms) -> Result<Charge, Status> {
        let mut charge = self.context.budget.open(terms.client);
        let heads =
            headers.iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER).sum::<usize>();
        let bytes = match kind {
            Kind::Unknown => 0,
            Kind::Health | Kind::HealthWatch => heads.saturating_sub(PROBE),
            _ => HANDLING + heads,
        };
        charge.add(bytes).map_err(|full| status::full(&full))?;
        Ok(charge)
    }

    fn with_ask<B>(
        &self,
        kind: Kind,
        request: Request<Incoming>,
        charge: &Charge,
        body: impl FnOnce(Incoming) -> B,
        mut ask: Ask,
    ) -> Request<Body>
    where
        B: http_body::Body<Data = Bytes, Error = hyper::Error> + Send + Unpin + 'static,
    {
        let infer = matches!(kind, Kind::Infer | Kind::InferStream);
        let limits = Limits {
            size: if infer { self.context.limits.max_body } else { SMALL },
            stall: self.context.memory.stall,
            whole: self.context.limits.read_timeout,
            at_once: !kind.streams(),
            infer,
        };
        let (head, incoming) = request.into_parts();
        let (messages, charges) = Messages::new(body(incoming), limits, charge);
        ask.charges = charges;
        let mut request = Request::from_parts(head, Body::new(messages));
        request.extensions_mut().insert(ask);
        request
    }

    fn stream_place(&self, kind: Kind, client: Client) -> Result<Place, Status> {
        let (places, of) = match kind {
            Kind::HealthWatch => (&self.watches, "watches"),
            _ => (&self.streams, "streams"),
        };
        places.take(client).ok_or_else(|| no_place(of))
    }

    fn handler(&self, kind: Kind) -> &Handler {
        match kind {
            Kind::Infer | Kind::InferStream => &self.infer,
            Kind::Health | Kind::HealthWatch => &self.health,
            Kind::Reflection => &self.reflection,
            Kind::ReflectionAlpha => &self.reflection_alpha,
            Kind::Plain | Kind::Slow | Kind::Unknown => &self.plain,
        }
    }
}

pub(super) fn place(places: &Arc<Semaphore>, of: &str) -> Result<OwnedSemaphorePermit, Status> {
    places.clone().try_acquire_owned().map_err(|_full| no_place(of))
}

fn no_place(of: &str) -> Status {
    let message =
        format!("the server is full: as many {of} as it takes of one client, or of all, are under way");
    status::with_retry(Code::ResourceExhausted, message, Some(PLACE_AGAIN))
}

/// Whether the client left before its message was there.
#[derive(Clone, Default)]
struct Cut(Arc<AtomicBool>);

impl Cut {
    /// Notes that a body has ended early.
    fn note(&self) -> impl FnMut(hyper::Error) -> hyper::Error + Send + 'static {
        let Self(cut) = self.clone();
        move |error| {
            cut.store(true, Ordering::Relaxed);
            error
        }
    }
}

pub(super) fn late() -> Status {
    Status::deadline_exceeded("the answer was not ready before the call's deadline")
}

fn unimplemented(path: &str) -> Status {
    let path: String = path.chars().take(100).collect();
    Status::unimplemented(format!("there is no method {path}; server reflection lists those there are"))
}

/// A request's body until the port closes: what comes after that is not read.
struct Until {
    body: Incoming,
    closing: BoxFuture<'static, ()>,
}

impl Until {
    fn new(body: Incoming, mut closing: watch::Receiver<bool>) -> Self {
        let closed = async move {
            let _or_the_port_is_gone = closing.wait_for(|closing| *closing).await;
        };
        Self { body, closing: closed.boxed() }
    }
}

impl http_body::Body for Until {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.closing.poll_unpin(task) {
            Poll::Ready(()) => {
                self.closing = std::future::ready(()).boxed();
                Poll::Ready(None)
            }
            Poll::Pending => Pin::new(&mut self.body).poll_frame(task),
        }
    }
}

/// What a streamed answer may take.
#[derive(Default)]
struct Bounds {
    end: Option<Pin<Box<Sleep>>>,
    _place: Option<Place>,
    _in_hand: Option<Charge>,
    /// Of an answer that is charged as a whole.
    answer: Option<Arc<Charge>>,
    /// Of a stream, whose answers are charged as they are written.
    written: Option<Charge>,
}

impl Bounds {
    /// A part of the answer, charged until it has left.
    fn hold(&self, data: Bytes) -> Result<Bytes, Full> {
        match (&self.answer, &self.written) {
            (Some(answer), _) => Ok(answer.hold_shared(data)),
            (None, Some(charge)) => {
                let mut charge = charge.another();
                charge.add(data.len())?;
                Ok(charge.hold(data))
            }
            (None, None) => Ok(data),
        }
    }
}

/// An answer's body that ends at the call's deadline, and that counts the call when it has ended, however it ends.
pub(super) struct Ending {
    body: Option<Body>,
    count: Count,
    bounds: Bounds,
}

impl Ending {
    fn end_with(&mut self, status: &Status) -> Result<Frame<Bytes>, Status> {
        self.body = None;
        let mut trailers = HeaderMap::new();
        let written = status.add_header(&mut trailers);
        self.count.see(&trailers);
        written.map(|()| Frame::trailers(trailers))
    }
}

impl http_body::Body for Ending {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Self { body, count, bounds } = &mut *self;
        let Some(inner) = body else { return Poll::Ready(None) };
        if bounds.end.as_mut().is_some_and(|end| end.as_mut().poll(task).is_ready()) {
            return Poll::Ready(Some(self.end_with(&late())));
        }
        let frame = match ready!(Pin::new(inner).poll_frame(task)) {
            Some(Ok(frame)) => frame,
            other => return Poll::Ready(other),
        };
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                frame.trailers_ref().into_iter().for_each(|trailers| count.see(trailers));
                return Poll::Ready(Some(Ok(frame)));
            }
        };
        let held = bounds.hold(data);
        Poll::Ready(Some(match held {
            Ok(data) => Ok(Frame::data(data)),
            Err(full) => self.end_with(&status::full(&full)),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, |body| body.size_hint())
    }
}

/// Counts, logs and traces a call when it has ended; as cancelled where no status was sent.
struct Count {
    kind: Kind,
    method: &'static str,
    arrived: Instant,
    context: Arc<Context>,
    span: Span,
    status: Code,
    cut: Cut,
    timelines: Option<Timelines>,
}

impl Count {
    fn begin(
        (kind, method): (Kind, &'static str),
        request: &Request<Incoming>,
        arrived: Instant,
        context: &Arc<Context>,
    ) -> Self {
        let (tracer, headers) = (&context.tracer, request.headers());
        let span = if is_polled(kind, method) { tracer.join(headers) } else { tracer.begin(headers) };
        let (context, status) = (context.clone(), Code::Cancelled);
        Self { kind, method, arrived, context, span, status, cut: Cut::default(), timelines: None }
    }

    /// Remembers the status, if `headers` have one.
    fn see(&mut self, headers: &HeaderMap) {
        if let Some(status) = Status::from_header_map(headers) {
            self.status = status.code();
        }
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        let took = self.arrived.elapsed();
        if self.cut.0.load(Ordering::Relaxed) {
            self.status = Code::Cancelled;
        }
        let (method, status) = (self.method, status::name(self.status));
        // More digits than of microseconds say nothing.
        let ms = (took.as_secs_f64() * 1e6).round() / 1e3;
        let (trace_id, span_id) = (self.span.ids.trace, self.span.ids.span);
        self.context.metrics.called(method, status, took);
        tracing::info!(target: "access", method, status, ms, %trace_id, %span_id);
        if matches!(self.status, Code::Internal | Code::Unknown | Code::DataLoss) {
            tracing::warn!(method, status, ms, %trace_id, %span_id, "call failed");
        }
        if self.span.is_recorded() {
            let ended = Ended {
                outcome: traced::outcome(full_name(self.kind, method), self.status),
                whole: Stretch { began: self.arrived, took },
                read: None,
                timelines: self.timelines.take().map_or_else(Vec::new, |timelines| timelines.0),
            };
            self.context.tracer.record(&self.span.ids, ended);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_methods() {
        for (path, expected) in [
            ("/inference.GRPCInferenceService/ModelInfer", (Kind::Infer, "ModelInfer")),
            ("/inference.GRPCInferenceService/ServerLive", (Kind::Plain, "ServerLive")),
            ("/inference.GRPCInferenceService/RepositoryModelLoad", (Kind::Slow, "RepositoryModelLoad")),
            ("/inference.GRPCInferenceService/TraceSetting", (Kind::Unknown, "unknown")),
            ("/grpc.health.v1.Health/Check", (Kind::Health, "HealthCheck")),
            (
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                (Kind::Reflection, "ServerReflectionInfo"),
            ),
            ("/", (Kind::Unknown, "unknown")),
            ("ModelInfer", (Kind::Unknown, "unknown")),
        ] {
            assert_eq!(route(path), expected, "{path}");
            let (kind, method) = expected;
            let full = if kind == Kind::Unknown { "_OTHER" } else { &path[1..] };
            assert_eq!(full_name(kind, method), full);
        }
    }
}
