//! The V2 protocol's service: each method from its message to [`crate::v2`] and back.

use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, Stream, StreamExt, stream};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout_at,
};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{
    calls, describe, message,
    messages::Charges,
    proto::{
        ModelConfigRequest, ModelConfigResponse, ModelInferRequest, ModelInferResponse, ModelMetadataRequest,
        ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse, ModelStatisticsRequest,
        ModelStatisticsResponse, ModelStreamInferResponse, RepositoryIndexRequest, RepositoryIndexResponse,
        RepositoryModelLoadRequest, RepositoryModelLoadResponse, RepositoryModelUnloadRequest,
        RepositoryModelUnloadResponse, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest,
        ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
        grpc_inference_service_server::GrpcInferenceService, repository_index_response::ModelIndex,
    },
    status,
    traced::Timelines,
};
use crate::{
    access::Scope,
    batch::Terms,
    memory::Charge,
    server::{Context, gate::Who},
    v2::{
        Error, Model, Place, Received, Scored,
        infer::off_runtime,
        repository,
        request::{MAX_ID, check_id},
        statistics::{Measured, Reason},
    },
};

/// Requests of one stream that are under way at once.
const STREAM_REQUESTS: usize = 16;

/// Says of an answer in a stream that no other follows to the same request.
const FINAL: &str = "triton_final_response";

/// What a call's head asks for.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    /// When the head was there.
    pub(super) arrived: Instant,
    /// By when, how urgently, on whose account.
    pub(super) terms: Terms,
    /// How long each request of a stream may take, from its own arrival.
    pub(super) each: Duration,
    /// Who asks.
    pub(super) who: Who,
    /// What its messages are charged.
    pub(super) charges: Charges,
    /// Held by the request of a stream that waits for a place.
    turn: Arc<Semaphore>,
}

impl Ask {
    /// What a head asks for whose messages have not come.
    pub(super) fn new(arrived: Instant, terms: Terms, each: Duration, who: &Who) -> Self {
        Self {
            arrived,
            terms,
            each,
            who: who.clone(),
            charges: Charges::default(),
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// What a message is charged that has just come.
    fn charge(&self, context: &Context) -> Charge {
        self.charges.next().unwrap_or_else(|| context.budget.open(self.terms.client))
    }
}

/// The service.
#[derive(Clone)]
pub(super) struct Inference {
    pub(super) context: Arc<Context>,
    /// Places of messages that are under way.
    pub(super) places: Arc<Semaphore>,
}

impl Inference {
    fn model(&self, name: &str, version: &str) -> Result<Model, Status> {
        Model::find(&self.context.services, name, given(version)).map_err(|error| status::of(&error))
    }

    /// A place that operators may change.
    fn changeable(&self, name: &str) -> Result<Place<'_>, Error> {
        repository::check_admin(self.context.limits.admin)?;
        Place::find(&self.context.services, name, None)
    }

    /// Scores one request and counts it.
    async fn infer(
        &self,
        (message, charge): (ModelInferRequest, Charge),
        terms: &Terms,
        arrived: Instant,
    ) -> Result<Answered, Error> {
        let model = Model::find(&self.context.services, &message.model_name, given(&message.model_version))?;
        let counted = self.context.statistics.of_model(&model);
        match self.score(&model, (message, charge), terms, arrived).await {
            Ok((answer, measured, charge)) => {
                counted.succeeded(arrived.elapsed(), &measured);
                Ok(Answered { answer, timelines: Timelines(measured.timelines), charge })
            }
            Err(error) => {
                counted.failed(arrived.elapsed(), reason(&error));
                Err(error)
            }
        }
    }

    async fn score(
        &self,
        model: &Model,
        (mut message, charge): (ModelInferRequest, Charge),
        terms: &Terms,
        arrived: Instant,
    ) -> Result<(ModelInferResponse, Measured, Charge), Error> {
        check_id(&message.id)?;
        let gate = model.admit(terms)?;
        let started = Instant::now();
        let id = std::mem::take(&mut message.id);
        // Whoever gives up does not end what is being read: what it is charged stays with it.
        let (request, charge) =
            off_runtime(message::weight(&message), || (message::read(message), charge)).await;
        let request = request?;
        let terms = request.parameters.change(terms, arrived);
        let parsing = started.elapsed();
        let received = Received { request, terms, parsing, charge };
        let Scored { outputs, timelines, charge } =
            gate.score(received, self.context.limits.max_images).await?;
        let started = Instant::now();
        let name = model.name().to_owned();
        let size = outputs.iter().map(|output| output.values.binary_size()).sum();
        let (answer, mut charge) =
            off_runtime(size, move || (message::write(name, id, &outputs), charge)).await;
        // The answer, and what is written of it, in a buffer that doubles.
        charge.shrink_to(3 * size);
        Ok((answer, Measured { parsing, writing: started.elapsed(), timelines }, charge))
    }

    /// A place for a request of a stream, of which one at a time is in the line for them.
    async fn place(&self, ask: &Ask) -> SemaphorePermit<'_> {
        let bug = "bug: the semaphores are never closed";
        let _turn = ask.turn.acquire().await.expect(bug);
        self.places.acquire().await.expect(bug)
    }

    /// Answers one request of a stream: whatever becomes of it, the stream goes on.
    ///
    /// With what the answer is charged.
    async fn answer(&self, message: Arrived, ask: Ask) -> (ModelStreamInferResponse, Option<Charge>) {
        let Arrived { message, charge, at } = message;
        let terms = Terms { deadline: ask.terms.deadline.min(at + ask.each), ..ask.terms };
        let (name, id) = (beginning(&message.model_name), beginning(&message.id));
        let answered = async {
            let _place = timeout_at(terms.deadline.into(), self.place(&ask))
                .await
                .map_err(|_elapsed| calls::late().message().to_owned())?;
            // A stream is open for long: each of its requests counts, and ends with its key.
            self.context.admit_again(&ask.who, Scope::Score).map_err(|denied| denied.to_string())?;
            self.infer((message, charge), &terms, at).await.map_err(|error| error.to_string())
        };
        let answered = AssertUnwindSafe(answered).catch_unwind().await;
        let (error_message, mut answer, charge) = match answered {
            Ok(Ok(Answered { answer, charge, .. })) => (String::new(), answer, Some(charge)),
            Ok(Err(problem)) => (problem, message::unanswered(name, id), None),
            Err(_logged_by_the_panic_hook) => {
                (status::panicked().message().to_owned(), message::unanswered(name, id), None)
            }
        };
        answer.parameters.insert(FINAL.to_owned(), message::flag(true));
        (ModelStreamInferResponse { error_message, infer_response: Some(answer) }, charge)
    }
}

/// An answer, where its time went, and what it is charged.
struct Answered {
    answer: ModelInferResponse,
    timelines: Timelines,
    charge: Charge,
}

/// A request of a stream.
struct Arrived {
    message: ModelInferRequest,
    charge: Charge,
    at: Instant,
}

/// The next request of a stream.
async fn next(
    messages: &mut Streaming<ModelInferRequest>,
    ask: &Ask,
    context: &Context,
) -> Option<Result<Arrived, Status>> {
    let message = match messages.next().await? {
        Ok(message) => message,
        Err(status) => return Some(Err(status)),
    };
    Some(Ok(Arrived { message, charge: ask.charge(context), at: Instant::now() }))
}

/// As much of a message's words as is sent back at most.
fn beginning(words: &str) -> String {
    words[..words.floor_char_boundary(MAX_ID)].to_owned()
}

/// A version, where a message gives one.
fn given(version: &str) -> Option<&str> {
    Some(version).filter(|version| !version.is_empty())
}

fn ask_of<T>(request: &Request<T>) -> Ask {
    request.extensions().get().cloned().expect("bug: every call comes with what its head asks")
}

#[tonic::async_trait]
impl GrpcInferenceService for Inference {
    async fn server_live(
        &self,
        _: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        let live = self.context.services.readiness.alive().is_ok();
        Ok(Response::new(ServerLiveResponse { live }))
    }

    async fn server_ready(
        &self,
        _: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        let ready = self.context.services.readiness.check().is_ok();
        Ok(Response::new(ServerReadyResponse { ready }))
    }

    async fn model_ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        let ModelReadyRequest { name, version } = request.get_ref();
        let services = &self.context.services;
        let place = Place::find(services, name, given(version)).map_err(|error| status::of(&error))?;
        Ok(Response::new(ModelReadyResponse { ready: place.ready(services).is_ok() }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(describe::server(self.context.limits.admin)))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let ModelMetadataRequest { name, version } = request.get_ref();
        Ok(Response::new(describe::metadata(&self.model(name, version)?)))
    }

    async fn model_config(
        &self,
        request: Request<ModelConfigRequest>,
    ) -> Result<Response<ModelConfigResponse>, Status> {
        let ModelConfigRequest { name, version } = request.get_ref();
        let config = describe::config(&self.model(name, version)?);
        Ok(Response::new(ModelConfigResponse { config: Some(config) }))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let ask = ask_of(&request);
        let charge = ask.charge(&self.context);
        let _place = calls::place(&self.places, "requests")?;
        let answered = self.infer((request.into_inner(), charge), &ask.terms, ask.arrived).await;
        let Answered { answer, timelines, charge } = answered.map_err(|error| status::of(&error))?;
        let mut response = Response::new(answer);
        response.extensions_mut().insert(timelines);
        response.extensions_mut().insert(Arc::new(charge));
        Ok(response)
    }

    type ModelStreamInferStream =
        Pin<Box<dyn Stream<Item = Result<ModelStreamInferResponse, Status>> + Send>>;

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        let ask = ask_of(&request);
        let service = self.clone();
        let unread = (request.into_inner(), self.context.clone(), ask.clone());
        let messages = stream::unfold(unread, |(mut messages, context, ask)| async {
            let arrived = next(&mut messages, &ask, &context).await?;
            Some((arrived, (messages, context, ask)))
        });
        let answers = messages.map(move |arrived| {
            // On a task of its own from the first: whether it gets a place, goes on, ends at its deadline and gives the
            // place to another is not for the reader of the stream to decide, which may take no answer ever.
            let answered = arrived.map(|arrived| {
                let (service, ask) = (service.clone(), ask.clone());
                AbortOnDropHandle::new(tokio::spawn(async move { service.answer(arrived, ask).await }))
            });
            async { answered?.await.map_err(|_ended| status::panicked()) }
        });
        // An answer keeps its charge while it waits for its turn; what is written of it is charged anew.
        let answers =
            answers.buffered(STREAM_REQUESTS).map(|answered| answered.map(|(answer, _charge)| answer));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn model_statistics(
        &self,
        request: Request<ModelStatisticsRequest>,
    ) -> Result<Response<ModelStatisticsResponse>, Status> {
        let ModelStatisticsRequest { name, version } = request.get_ref();
        let models = match name.is_empty() {
            true => Model::all(&self.context.services).collect(),
            false => vec![self.model(name, version)?],
        };
        let stats = self.context.statistics.of(&models).into_iter().map(describe::statistics);
        Ok(Response::new(ModelStatisticsResponse { model_stats: stats.collect() }))
    }

    async fn repository_index(
        &self,
        request: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        let entry = |listed: repository::Listed| ModelIndex {
            name: listed.name,
            version: listed.version.to_owned(),
            state: listed.state.to_owned(),
            reason: listed.reason,
        };
        let index = repository::index(&self.context.services, request.get_ref().ready);
        Ok(Response::new(RepositoryIndexResponse { models: index.into_iter().map(entry).collect() }))
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> Result<Response<RepositoryModelLoadResponse>, Status> {
        let load = async { self.changeable(&request.get_ref().model_name)?.load().await };
        load.await.map_err(|error| status::of(&error))?;
        Ok(Response::new(RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Result<Response<RepositoryModelUnloadResponse>, Status> {
        let place = self.changeable(&request.get_ref().model_name).map_err(|error| status::of(&error))?;
        place.unload().await;
        Ok(Response::new(RepositoryModelUnloadResponse {}))
    }
}

fn reason(error: &Error) -> Reason {
    match status::of(error).code() {
        Code::ResourceExhausted | Code::Unavailable => Reason::Rejected,
        Code::Internal => Reason::Backend,
        _ => Reason::Other,
    }
}
