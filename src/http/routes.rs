//! Which handler a request goes to, and what is counted and logged about it.

use std::{
    net::IpAddr,
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::Incoming,
    header::{CONNECTION, HeaderValue},
    http::request::Parts,
};

use super::{
    Context, Published, admin,
    body::Body,
    classify, faq, probes,
    reply::{self, Failure, Reply},
    score,
    timing::{self, Written},
    traced, v2,
};
use crate::{
    access::Scope,
    batch::Terms,
    server::{WARNING, terms},
    service::{Timeline, photos::RANDOM_WEIGHTS},
    trace::{Ended, Span, Stretch},
};

/// What a port answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Surface {
    /// Every route, to those who may.
    Everything,
    /// Liveness, readiness and metrics, to everybody who reaches the port.
    Ops,
}

impl Surface {
    /// The route of a path, and the scope that it needs.
    fn route(self, path: &str) -> (Route, Option<Scope>) {
        let route = Route::of(path);
        match (self, route) {
            (Self::Everything, route) => (route, route.scope()),
            (Self::Ops, Route::Livez | Route::Readyz | Route::Metrics) => (route, None),
            (Self::Ops, _) => (Route::Unknown, None),
        }
    }

    /// Whether requests to `route` and their answers are charged. Probes are not: they are small, and they are to be answered
    /// when nothing else is. Nobody is charged on the operators' own port.
    fn charges(self, route: Route) -> bool {
        self == Self::Everything && route != Route::Root && (route == Route::Metrics || !route.is_polled())
    }

    fn offers(self) -> &'static str {
        match self {
            Self::Everything => "POST /classify, POST /faq, POST /score or GET /version",
            Self::Ops => "GET /livez, GET /readyz or GET /metrics, which are all that this port answers",
        }
    }
}

/// The paths this server knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// `/`
    Root,
    /// `/version`
    Version,
    /// `/livez`
    Livez,
    /// `/readyz`
    Readyz,
    /// `/metrics`
    Metrics,
    /// `/openapi.json`
    Document,
    /// `/docs`
    Docs,
    /// `/score`
    Score,
    /// `/classify`
    Classify,
    /// `/faq`
    Faq,
    /// `/admin/faq/reload`
    ReloadFaq,
    /// `/v2` and below.
    V2(v2::Endpoint),
    /// Anything else.
    Unknown,
}

impl Route {
    /// The route of a path.
    pub fn of(path: &str) -> Self {
        match path {
            "/" => Self::Root,
            "/version" => Self::Version,
            "/livez" => Self::Livez,
            "/readyz" => Self::Readyz,
            "/metrics" => Self::Metrics,
            "/openapi.json" => Self::Document,
            "/docs" => Self::Docs,
            "/score" => Self::Score,
            "/classify" => Self::Classify,
            "/faq" => Self::Faq,
            "/admin/faq/reload" => Self::ReloadFaq,
            path => v2::Endpoint::of(path).map_or(Self::Unknown, Self::V2),
        }
    }

    /// Its value in the `route` label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Version => "version",
            Self::Livez => "livez",
            Self::Readyz => "readyz",
            Self::Metrics => "metrics",
            Self::Document => "openapi",
            Self::Docs => "docs",
            Self::Score => "score",
            Self::Classify => "classify",
            Self::Faq => "faq",
            Self::ReloadFaq => "admin_faq_reload",
            Self::V2(endpoint) => endpoint.name(),
            Self::Unknown => "unknown",
        }
    }

    /// The scope that a caller needs where keys are on: none to ask whether the server lives and is ready, and none for
    /// what is the same for everybody.
    pub(super) fn scope(self) -> Option<Scope> {
        match self {
            Self::Root | Self::Livez | Self::Readyz | Self::Document | Self::Docs | Self::Unknown => None,
            Self::Metrics => Some(Scope::Metrics),
            Self::ReloadFaq => Some(Scope::Admin),
            Self::Version | Self::Score | Self::Classify | Self::Faq => Some(Scope::Score),
            Self::V2(endpoint) => endpoint.scope(),
        }
    }

    /// Whether it takes POST rather than GET.
    pub(super) fn posts(self) -> bool {
        match self {
            Self::Score | Self::Classify | Self::Faq | Self::ReloadFaq => true,
            Self::V2(endpoint) => endpoint.posts(),
            _ => false,
        }
    }

    fn allowed(self) -> &'static str {
        if self.posts() { "POST" } else { "GET, HEAD" }
    }

    /// Whether it takes requests of this method.
    pub(super) fn allows(self, method: &Method) -> bool {
        match self {
            Self::Unknown => true,
            posts if posts.posts() => method == Method::POST,
            _ => method == Method::GET || method == Method::HEAD,
        }
    }

    /// Whether a 503 from it is an answer rather than a failure.
    fn probes(self) -> bool {
        match self {
            Self::Readyz => true,
            Self::V2(endpoint) => endpoint.probes(),
            _ => false,
        }
    }

    /// Whether `status` says that the server failed.
    pub(super) fn fails(self, status: StatusCode) -> bool {
        status.is_server_error() && !self.probes()
    }

    /// Whether machines ask it every few seconds: traces of that tell nobody anything.
    fn is_polled(self) -> bool {
        matches!(self, Self::Livez | Self::Metrics | Self::V2(v2::Endpoint::Live)) || self.probes()
    }

    /// The answer to a request here that has none of its own.
    fn refuse(self, failure: Failure, under_v2: bool) -> Reply {
        match self {
            Self::V2(_) => v2::refuse(&failure),
            Self::Unknown if under_v2 => v2::refuse(&failure),
            _ => failure.into_reply(),
        }
    }
}

/// Answers one request: routes it, contains a panic, times, counts and logs what came of it.
pub(super) async fn answer(
    request: Request<Incoming>,
    peer: IpAddr,
    context: &Context,
    published: &Published,
) -> Response<Written> {
    let arrived = Instant::now();
    let (route, scope) = published.surface.route(request.uri().path());
    let count = Count::begin(route, &request, arrived, context);
    let under_v2 = request.uri().path().starts_with("/v2/");
    let version = request.version();
    let (head, body) = request.into_parts();
    let mut body = Body::new(body);
    let origin = published.cors.allowed(&head.headers);
    let handled = async {
        if let Some(reply) = published.cors.preflight(&head, route.allowed()) {
            return Ok(reply);
        }
        let who = context.admit(&head.headers, peer, scope)?;
        let terms = terms::of(&head.headers, &who, arrived, &context.limits, &context.clients)?;
        let ask = Ask { head, arrived, terms };
        if !published.surface.charges(route) {
            return dispatch(route, &ask, &mut body, context, published).await;
        }
        let mut charge = context.budget.open(ask.terms.client);
        // What is answered at once holds nothing before there is an answer, and would be seen in the metrics that are asked for.
        let (before, after) = if route.posts() { (in_hand(&ask.head), 0) } else { (0, in_hand(&ask.head)) };
        charge.add(before)?;
        let reply = dispatch(route, &ask, &mut body, context, published).await?;
        charge.add(after + reply::len(&reply))?;
        Ok(reply.map(|body| reply::held(body, charge)))
    };
    let handled = AssertUnwindSafe(handled).catch_unwind().await;
    let outcome = handled.unwrap_or_else(|_logged_by_the_panic_hook| Err(panicked()));
    let mut reply = outcome.unwrap_or_else(|failure| route.refuse(failure, under_v2));
    let stages = context.metrics.stages(route.name());
    let read = body.stretch();
    if let Some(read) = read {
        stages.read.record(read.took.as_secs_f64());
    }
    timing::announce(&mut reply, read.map(|read| read.took), arrived.elapsed());
    published.cors.announce(origin, reply.headers_mut());
    if !body.discard().await || moves_on(version, context) {
        reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if context.services.photos().is_ok_and(|photos| photos.model.random) {
        reply.headers_mut().insert(WARNING, HeaderValue::from_static(RANDOM_WEIGHTS));
    }
    count.finish(&reply, read);
    reply.map(|body| Written::new(body, stages.write))
}

/// Whether the client should ask elsewhere next. Before the port closes, every answer says so: a connection that is closed
/// while it is idle may lose the request that is just being sent on it, one that ends with an answer cannot. HTTP/2 has a
/// handshake of its own for this.
fn moves_on(version: Version, context: &Context) -> bool {
    version < Version::HTTP_2 && context.services.readiness.draining()
}

/// About as many bytes as a request takes from its head to the last byte of its answer, beside its body and that answer:
/// what it is handled with, and its head.
fn in_hand(head: &Parts) -> usize {
    const HANDLING: usize = 8 << 10;
    const HEADER: usize = 64;
    let headers = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER);
    HANDLING + headers.sum::<usize>()
}

fn panicked() -> Failure {
    let message = "the server failed unexpectedly on this request; its log has the details";
    Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
}

/// A request apart from its body.
pub(super) struct Ask {
    /// Method, path, query, headers.
    pub(super) head: Parts,
    /// When the head was there.
    pub(super) arrived: Instant,
    /// By when, how urgently, on whose account.
    pub(super) terms: Terms,
}

async fn dispatch(
    route: Route,
    ask: &Ask,
    body: &mut Body,
    context: &Context,
    published: &Published,
) -> Result<Reply, Failure> {
    let (method, path) = (&ask.head.method, ask.head.uri.path());
    if !route.allows(method) {
        let message = format!("{method} is not allowed here; use {}", route.allowed());
        let failure = Failure::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message);
        return Err(Failure { allow: Some(route.allowed()), ..failure });
    }
    match route {
        Route::Root => Ok(published.pages.root(&ask.head.headers)),
        Route::Version => Ok(probes::version(context)),
        Route::Livez => Ok(probes::livez(context)),
        Route::Readyz => Ok(probes::readyz(context)),
        Route::Metrics => Ok(probes::metrics(context)),
        Route::Document => Ok(published.document.answer()),
        Route::Docs => Ok(published.pages.docs(&ask.head.headers)),
        Route::Score => score::answer(ask, body, context).await,
        Route::Classify => classify::answer(ask, body, context).await,
        Route::Faq => faq::answer(ask, body, context).await,
        Route::ReloadFaq => admin::reload_faq(context).await,
        Route::V2(endpoint) => v2::answer(endpoint, ask, body, context).await,
        Route::Unknown => {
            let message = format!(
                "there is nothing at {}; try {}",
                path.chars().take(100).collect::<String>(),
                published.surface.offers()
            );
            Err(Failure::new(StatusCode::NOT_FOUND, "not_found", message))
        }
    }
}

/// The status counted for requests whose client left before the answer, after nginx's 499.
const CLIENT_GONE: u16 = 499;

/// Counts, logs and traces the request when it ends, however it ends.
struct Count<'a> {
    route: Route,
    method: Method,
    arrived: Instant,
    context: &'a Context,
    span: Span,
    status: Option<StatusCode>,
    read: Option<Stretch>,
    timelines: Vec<Timeline>,
}

impl<'a> Count<'a> {
    fn begin(route: Route, request: &Request<Incoming>, arrived: Instant, context: &'a Context) -> Self {
        let (tracer, headers) = (&context.tracer, request.headers());
        let span = if route.is_polled() { tracer.join(headers) } else { tracer.begin(headers) };
        let method = request.method().clone();
        Self { route, method, arrived, context, span, status: None, read: None, timelines: Vec::new() }
    }

    fn finish(mut self, reply: &Reply, read: Option<Stretch>) {
        self.status = Some(reply.status());
        if self.span.is_recorded() {
            (self.read, self.timelines) = (read, timing::timelines(reply));
        }
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        let took: Duration = self.arrived.elapsed();
        let status = self.status.map_or(CLIENT_GONE, |status| status.as_u16());
        let (route, ms) = (self.route.name(), reply::milliseconds(self.arrived));
        let (trace_id, span_id) = (self.span.ids.trace, self.span.ids.span);
        self.context.metrics.answered(route, status, took);
        tracing::info!(target: "access", route, status, ms, %trace_id, %span_id);
        if self.status.is_some_and(|status| self.route.fails(status)) {
            tracing::warn!(route, status, ms, %trace_id, %span_id, "request failed");
        }
        if self.span.is_recorded() {
            let ended = Ended {
                outcome: traced::outcome(self.route, &self.method, self.status),
                whole: Stretch { began: self.arrived, took },
                read: self.read,
                timelines: std::mem::take(&mut self.timelines),
            };
            self.context.tracer.record(&self.span.ids, ended);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_but_probes_and_the_operators_own_port_is_charged() {
        let charged = |path: &str| Surface::Everything.charges(Route::of(path));
        for path in ["/faq", "/metrics", "/openapi.json", "/docs", "/version", "/v2/models", "/v2", "/no"] {
            assert!(charged(path), "{path}");
        }
        for path in ["/", "/livez", "/readyz", "/v2/health/live", "/v2/health/ready", "/v2/models/faq/ready"]
        {
            assert!(!charged(path), "{path}");
        }
        assert!(!Surface::Ops.charges(Route::Metrics));
    }
}
