//! What each route takes and answers: parameters, bodies, statuses, examples. A new route or endpoint does not compile until
//! it is described here.

use serde_json::{Value, json};

use super::{schemas::Schemas, v2};
use crate::{
    access::Scope,
    http::{admin, classify, faq, probes, reply::ErrorReply, routes::Route, score, v2::Endpoint},
};

/// Every route with a path of its own.
const ROUTES: [Route; 24] = [
    Route::Classify,
    Route::Faq,
    Route::Score,
    Route::Root,
    Route::Version,
    Route::Livez,
    Route::Readyz,
    Route::Metrics,
    Route::Document,
    Route::Docs,
    Route::ReloadFaq,
    Route::V2(Endpoint::Server),
    Route::V2(Endpoint::Live),
    Route::V2(Endpoint::Ready),
    Route::V2(Endpoint::Models),
    Route::V2(Endpoint::AllStatistics),
    Route::V2(Endpoint::Model),
    Route::V2(Endpoint::ModelReady),
    Route::V2(Endpoint::Config),
    Route::V2(Endpoint::Statistics),
    Route::V2(Endpoint::Infer),
    Route::V2(Endpoint::Index),
    Route::V2(Endpoint::Load),
    Route::V2(Endpoint::Unload),
];

/// The path, the method and the operation of everything that can be asked.
pub(super) fn all(schemas: &mut Schemas) -> Vec<(&'static str, &'static str, Value)> {
    let mut all = Vec::new();
    for route in ROUTES {
        for path in paths(route) {
            let method = if route.posts() { "post" } else { "get" };
            let described = of(route, schemas).guarded(route.scope());
            all.push((*path, method, described.finish(route, path)));
        }
    }
    all
}

/// The templates that lead to a route.
pub(in crate::http) fn paths(route: Route) -> &'static [&'static str] {
    match route {
        Route::Root => &["/"],
        Route::Version => &["/version"],
        Route::Livez => &["/livez"],
        Route::Readyz => &["/readyz"],
        Route::Metrics => &["/metrics"],
        Route::Document => &["/openapi.json"],
        Route::Docs => &["/docs"],
        Route::Score => &["/score"],
        Route::Classify => &["/classify"],
        Route::Faq => &["/faq"],
        Route::ReloadFaq => &["/admin/faq/reload"],
        Route::Unknown => &[],
        Route::V2(endpoint) => match endpoint {
            Endpoint::Server => &["/v2"],
            Endpoint::Live => &["/v2/health/live"],
            Endpoint::Ready => &["/v2/health/ready"],
            Endpoint::Models => &["/v2/models"],
            Endpoint::AllStatistics => &["/v2/models/stats"],
            Endpoint::Model => &["/v2/models/{model}", "/v2/models/{model}/versions/{version}"],
            Endpoint::ModelReady => {
                &["/v2/models/{model}/ready", "/v2/models/{model}/versions/{version}/ready"]
            }
            Endpoint::Config => {
                &["/v2/models/{model}/config", "/v2/models/{model}/versions/{version}/config"]
            }
            Endpoint::Statistics => {
                &["/v2/models/{model}/stats", "/v2/models/{model}/versions/{version}/stats"]
            }
            Endpoint::Infer => &["/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"],
            Endpoint::Index => &["/v2/repository/index"],
            Endpoint::Load => &["/v2/repository/models/{model}/load"],
            Endpoint::Unload => &["/v2/repository/models/{model}/unload"],
        },
    }
}

/// Parameters that several operations share.
pub(super) fn parameters() -> Value {
    json!({
        "deadline": {"name": "x-convoy-deadline-ms", "in": "header", "required": false, "example": 2000,
            "description": "Milliseconds after which the answer is worth nothing.",
            "schema": {"type": "integer", "minimum": 1, "maximum": u32::MAX}},
        "grpc-timeout": {"name": "grpc-timeout", "in": "header", "required": false, "example": "2S",
            "description": "The same as gRPC clients say it; the shorter counts.",
            "schema": {"type": "string", "pattern": "^0{0,3}[1-9][0-9]{0,4}[HMSmun]$"}},
        "priority": {"name": "x-convoy-priority", "in": "header", "required": false, "example": "interactive",
            "description": "How urgent it is; `batch` gets a ninth of the server while both wait.",
            "schema": {"type": "string", "enum": ["interactive", "batch"]}},
        "top": {"name": "top", "in": "query", "required": false, "example": 3,
            "description": "How many predictions.",
            "schema": {"type": "integer", "minimum": 1, "maximum": u32::MAX}},
        "transform": {"name": "transform", "in": "query", "required": false,
            "description": "How a photo becomes a square; the model's own way where it is missing.",
            "schema": {"type": "string", "enum": ["resize-crop", "stretch"]}},
        "model": {"name": "model", "in": "path", "required": true, "example": "faq",
            "description": "`faq`, or the photo model's name.",
            "schema": {"type": "string", "minLength": 1}},
        "version": {"name": "version", "in": "path", "required": true, "example": "1",
            "description": "The only one is 1.", "schema": {"type": "string", "minLength": 1}},
        "json-length": {"name": "inference-header-content-length", "in": "header", "required": false,
            "description": "The length of the JSON before binary tensors; 0 where the body is the one input itself.",
            "schema": {"type": "integer", "minimum": 0, "maximum": u32::MAX}},
    })
}

/// How callers show who they are, where keys or an issuer are configured.
pub(super) fn security() -> Value {
    json!({
        "bearer": {"type": "http", "scheme": "bearer", "description": "A key, or a token of the configured issuer."},
        "api-key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same."},
    })
}

/// One operation in the making.
struct Described {
    tag: &'static str,
    summary: &'static str,
    parameters: Vec<&'static str>,
    body: Option<Value>,
    answers: Vec<(&'static str, Value)>,
    /// What failures look like.
    failure: Value,
    /// What a caller needs, where keys are on.
    scope: Option<Scope>,
}

impl Described {
    fn new(tag: &'static str, summary: &'static str, failure: Value) -> Self {
        let described = Self {
            tag,
            summary,
            parameters: Vec::new(),
            body: None,
            answers: Vec::new(),
            failure,
            scope: None,
        };
        described.fails(&[("400", "The request does not say what is wanted."), ("500", "The server failed.")])
    }

    fn takes(mut self, parameters: &[&'static str]) -> Self {
        self.parameters.extend(parameters);
        self
    }

    /// A body that must be there, by media type.
    fn body(mut self, content: Value) -> Self {
        self.body = Some(json!({"required": true, "content": content}));
        self
    }

    fn answers(mut self, status: &'static str, description: &str, content: Value) -> Self {
        self.answers.push((status, json!({"description": description, "content": content})));
        self
    }

    fn fails(mut self, statuses: &[(&'static str, &'static str)]) -> Self {
        for (status, description) in statuses {
            let content = json!({"application/json": {"schema": self.failure}});
            let mut answer = json!({"description": description, "content": content});
            if *status == "429" {
                let seconds = json!({"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}});
                answer["headers"] = json!({"retry-after": seconds});
            }
            if *status == "401" {
                let challenge = json!({"description": "RFC 6750's.", "schema": {"type": "string"}});
                answer["headers"] = json!({"www-authenticate": challenge});
            }
            self.answers.push((status, answer));
        }
        self
    }

    /// The statuses of everything that is admitted, read, and scored by a deadline.
    fn scores(self) -> Self {
        self.takes(&["deadline", "grpc-timeout", "priority"]).fails(&[
            ("404", "A service this process was told not to run, or an unknown model."),
            ("408", "The body did not arrive in time."),
            ("413", "Over a limit, which the message names."),
            ("415", "Not the kind of body that is read here."),
            ("429", "No seat left, the answer would be late, or the key has used up its requests."),
            ("503", "Stopping, unable, or the model is unloaded."),
            ("504", "Not answered within its deadline."),
        ])
    }

    /// What may become of callers who need a scope. What an operation says of a status itself stays.
    fn guarded(mut self, scope: Option<Scope>) -> Self {
        self.scope = scope;
        if scope.is_none() {
            return self;
        }
        let own: Vec<_> = self.answers.iter().map(|(status, _)| *status).collect();
        let refusals = [
            ("401", "Keys are on, and no valid one came along."),
            ("403", "The key does not have the scope."),
            ("429", "The key has used up its requests."),
        ];
        let missing: Vec<_> = refusals.into_iter().filter(|(status, _)| !own.contains(status)).collect();
        self.fails(&missing)
    }

    fn finish(self, route: Route, path: &str) -> Value {
        let in_path = ["model", "version"].into_iter().filter(|name| path.contains(&format!("{{{name}}}")));
        let named = in_path.chain(self.parameters);
        let parameters: Vec<_> =
            named.map(|name| json!({"$ref": format!("#/components/parameters/{name}")})).collect();
        let version = if path.contains("{version}") { "_version" } else { "" };
        let mut operation = json!({
            "tags": [self.tag],
            "operationId": format!("{}{version}", route.name()),
            "summary": self.summary,
            "parameters": parameters,
            "responses": {},
        });
        if let Some(scope) = self.scope {
            // Optional, because keys need not be on.
            operation["security"] = json!([{}, {"bearer": [scope.name()]}, {"api-key": [scope.name()]}]);
        }
        if let Some(body) = self.body {
            operation["requestBody"] = body;
        }
        for (status, answer) in self.answers {
            operation["responses"][status] = answer;
        }
        operation
    }
}

fn as_json(schema: Value, example: Value) -> Value {
    json!({"application/json": {"schema": schema, "example": example}})
}

fn as_text(example: &str) -> Value {
    json!({"text/plain": {"schema": {"type": "string"}, "example": example}})
}

/// Bytes of a photo.
fn photo() -> Value {
    json!({"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}})
}

fn of(route: Route, schemas: &mut Schemas) -> Described {
    let failure = schemas.of_answer::<ErrorReply>();
    let new = |tag, summary| Described::new(tag, summary, failure.clone());
    match route {
        Route::Classify => new("Scoring", "What is in a photo")
            .takes(&["top", "transform"])
            .body(photo())
            .answers(
                "200",
                "The likeliest classes, best first.",
                as_json(
                    schemas.of_answer::<classify::Answer>(),
                    json!({"predictions": [
                        {"label": "n04266014 space shuttle", "class": 812, "probability": 0.9587532},
                        {"label": "n04552348 warplane, military plane", "class": 895, "probability": 0.0046557314}],
                        "model": "efficientnet-lite0", "milliseconds": 33.542}),
                ),
            )
            .scores()
            .fails(&UNREADABLE),
        Route::Faq => new("Scoring", "Which question of the FAQ is asked")
            .body(as_json(
                schemas.of_request::<faq::Asked>(),
                json!({"question": "remove one item from a list", "top": 1}),
            ))
            .answers(
                "200",
                "The likeliest matches, best first; none where nothing known is asked.",
                as_json(
                    schemas.of_answer::<faq::Answer>(),
                    json!({"matches": [{"id": 57, "answer_id": 1057, "probability": 0.97010607,
                        "question": "How do I remove one particular item from a JavaScript array when I know its value?",
                        "answer": "Find its position with `indexOf` and cut it out in place with `arr.splice(i, 1)`."}],
                        "scope": 0.76242274, "milliseconds": 0.26}),
                ),
            )
            .scores(),
        Route::Score => {
            let described = new("Scoring", "A question or photos, as clients of older services ask")
                .takes(&["top", "transform"])
                .body(as_json(
                    schemas.of_request::<score::Scored>(),
                    json!({"input": "how do i make a deep copy of an object"}),
                ))
                .answers(
                    "200",
                    "Every question of the FAQ, ranked, or labels by key; and how long that took.",
                    as_json(
                        json!({"anyOf": [schemas.of_answer::<score::Ranked>(), schemas.of_answer::<score::Labelled>()]}),
                        json!({"result": [[[78, 1078, 0.99932396], [68, 1068, 0.00034356493]], "Computed in 0.31 ms"]}),
                    ),
                )
                .scores()
                .fails(&UNREADABLE);
            let other = json!({"anyOf": [failure, {"type": "object", "maxProperties": 0}]});
            described.answers(
                "415",
                "Not JSON, answered with `{}`; or no photo that can be read is in it.",
                as_json(other, json!({})),
            )
        }
        Route::Root => new("Operation", "The page for browsers, a word for everybody else")
            .answers(
                "200",
                "It serves.",
                json!({"text/plain": {"schema": {"const": "Healthy"}, "example": "Healthy"},
                    "text/html": {"schema": {"type": "string"}}}),
            )
            .answers("304", "The client has this page.", json!({})),
        Route::Docs => new("Operation", "This document as a page")
            .answers("200", "A page.", json!({"text/html": {"schema": {"type": "string"}}}))
            .answers("304", "The client has this page.", json!({})),
        Route::Document => new("Operation", "This document").answers(
            "200",
            "OpenAPI 3.1.",
            json!({"application/json": {"schema": {"type": "object", "required": ["openapi", "info", "paths"]}}}),
        ),
        Route::Version => new("Operation", "What answers here").answers(
            "200",
            "Name and version of the server and its models.",
            as_text("convoy 0.1.0; photos: efficientnet-lite0; faq: 168 questions"),
        ),
        Route::Livez => {
            let schema = schemas.of_answer::<probes::Live>();
            let reason = "the classify pool is stuck: a batch has been running for 61 s";
            new("Operation", "Whether the process is worth keeping")
                .answers("200", "It is.", as_json(schema.clone(), json!({"live": true})))
                .answers(
                    "503",
                    "It should be replaced, and why.",
                    as_json(schema, json!({"live": false, "reason": reason})),
                )
        }
        Route::Readyz => {
            let schema = schemas.of_answer::<probes::Ready>();
            let ready = json!({"ready": true, "photos": {"model": "efficientnet-lite0", "classes": 1000,
                "hint": "this is the starter model; for ResNet-152: convoy weights fetch resnet152-v2"},
                "faq": {"questions": 168}});
            new("Operation", "Whether traffic is wanted")
                .answers("200", "It is.", as_json(schema.clone(), ready))
                .answers(
                    "503",
                    "It is not, and why.",
                    as_json(schema, json!({"ready": false, "reason": "draining"})),
                )
        }
        Route::Metrics => new("Operation", "Metrics for Prometheus").answers(
            "200",
            "In its text format.",
            as_text("convoy_jobs_total{queue=\"faq\",outcome=\"ok\"} 2\n"),
        ),
        Route::ReloadFaq => new("Operation", "Reads the FAQ model again; with --admin, or the scope admin")
            .answers(
                "200",
                "It has taken over.",
                as_json(
                    schemas.of_answer::<admin::Reloaded>(),
                    json!({"questions": 168, "training": "fa39d4b32fff971f"}),
                ),
            )
            .fails(&[
                ("403", "The key does not have the scope; without keys, administration is off."),
                ("404", "This process serves no FAQ."),
                ("422", "The file cannot be used; what served before goes on."),
            ]),
        Route::V2(endpoint) => of_v2(endpoint, schemas),
        Route::Unknown => unreachable!("bug: it has no path"),
    }
}

fn of_v2(endpoint: Endpoint, schemas: &mut Schemas) -> Described {
    let failure = schemas.of_answer::<v2::Failed>();
    let new = |summary| Described::new("V2", summary, failure.clone());
    let admin = [
        ("403", "The key does not have the scope; without keys, administration is off."),
        ("404", "No such model here."),
        ("422", "The files cannot be used; what served before goes on."),
    ];
    match endpoint {
        Endpoint::Server => new("What this server is").answers(
            "200",
            "Its name and the extensions it speaks.",
            as_json(
                schemas.of_answer::<v2::Server>(),
                json!({"name": "convoy", "version": "0.1.0", "extensions": ["binary_tensor_data", "classification",
                    "model_configuration", "parameters", "schedule_policy", "statistics"]}),
            ),
        ),
        Endpoint::Live => {
            let schema = schemas.of_answer::<v2::Live>();
            new("Whether the process is worth keeping")
                .answers("200", "It is.", as_json(schema.clone(), json!({"live": true})))
                .answers(
                    "503",
                    "It should be replaced, and why.",
                    json!({"application/json": {"schema": schema}}),
                )
        }
        Endpoint::Ready => {
            let schema = schemas.of_answer::<v2::Ready>();
            new("Whether traffic is wanted")
                .answers("200", "It is.", as_json(schema.clone(), json!({"live": true, "ready": true})))
                .answers("503", "It is not, and why.", json!({"application/json": {"schema": schema}}))
        }
        Endpoint::Models => new("Every model").answers(
            "200",
            "Their names.",
            as_json(schemas.of_answer::<v2::Models>(), json!({"models": ["efficientnet-lite0", "faq"]})),
        ),
        Endpoint::AllStatistics => new("Counts and times of every model").answers(
            "200",
            "Of this protocol's requests.",
            json!({"application/json": {"schema": schemas.of_answer::<v2::Statistics>()}}),
        ),
        Endpoint::Model => new("Tensors of a model").fails(&UNLOADED).answers(
            "200",
            "What it takes and answers.",
            as_json(
                schemas.of_answer::<v2::Model>(),
                json!({"name": "faq", "versions": ["1"], "platform": "convoy",
                    "inputs": [{"name": "question", "datatype": "BYTES", "shape": [-1, 1]}],
                    "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 168]}]}),
            ),
        ),
        Endpoint::ModelReady => {
            let schema = schemas.of_answer::<v2::ModelReady>();
            new("Whether a model answers")
                .fails(&UNLOADED[..1])
                .answers("200", "It does.", as_json(schema.clone(), json!({"name": "faq", "ready": true})))
                .answers("503", "It does not, and why.", json!({"application/json": {"schema": schema}}))
        }
        Endpoint::Config => new("Configuration of a model").fails(&UNLOADED).answers(
            "200",
            "As Triton's clients read it.",
            json!({"application/json": {"schema": schemas.of_answer::<v2::Config>()}}),
        ),
        Endpoint::Statistics => new("Counts and times of a model").fails(&UNLOADED).answers(
            "200",
            "Of this protocol's requests.",
            json!({"application/json": {"schema": schemas.of_answer::<v2::Statistics>()}}),
        ),
        Endpoint::Infer => new("Scores tensors")
            .takes(&["json-length"])
            .body(json!({
                "application/json": {"schema": schemas.of_request::<v2::Infer>(), "example": {
                    "inputs": [{"name": "question", "shape": [1], "datatype": "BYTES", "data": ["remove one item from a list"]}],
                    "outputs": [{"name": "id"}, {"name": "match"}]}},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            }))
            .answers(
                "200",
                "Tensors; binary ones after the JSON.",
                json!({
                    "application/json": {"schema": schemas.of_answer::<v2::Inferred>(), "example": {
                        "model_name": "faq", "model_version": "1", "outputs": [
                            {"name": "id", "datatype": "INT64", "shape": [1, 1], "data": [57]},
                            {"name": "match", "datatype": "BYTES", "shape": [1, 1], "data":
                                ["How do I remove one particular item from a JavaScript array when I know its value?"]}]}},
                    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                }),
            )
            .scores()
            .fails(&UNREADABLE)
            .fails(&[("501", "Another `Content-Encoding` than gzip, deflate and zstd.")]),
        Endpoint::Index => {
            let entries = json!({"type": "array", "items": schemas.of_answer::<v2::IndexEntry>()});
            let example = json!([{"name": "faq", "version": "1", "state": "READY", "reason": ""}]);
            let mut described = new("What is in the repository")
                .body(as_json(schemas.of_request::<v2::IndexRequest>(), json!({"ready": true})))
                .answers("200", "Every model and its state.", as_json(entries, example))
                .fails(&[("408", "The body did not arrive in time."), ("413", "The body is too large.")]);
            described.body.as_mut().expect("bug: it was just given one")["required"] = false.into();
            described
        }
        Endpoint::Load => new("Reads a model's files again; with --admin, or the scope admin").fails(&admin).answers(
            "200",
            "What they hold has taken over.",
            as_json(schemas.of_answer::<v2::Loaded>(), json!({"name": "faq", "load": true})),
        ),
        Endpoint::Unload => new("Takes a model away; with --admin, or the scope admin").fails(&admin[..2]).answers(
            "200",
            "New requests to it get 503.",
            as_json(schemas.of_answer::<v2::Unloaded>(), json!({"name": "faq", "unload": true})),
        ),
    }
}

/// What else asking for a model may come to.
const UNLOADED: [(&str, &str); 2] = [("404", "No such model or version here."), ("503", "It is unloaded.")];

/// What else may become of photos.
const UNREADABLE: [(&str, &str); 1] = [("422", "A photo that is damaged or cut short.")];
