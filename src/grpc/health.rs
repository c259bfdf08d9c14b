//! `grpc.health.v1`: whether traffic is wanted, of the server and of the inference service, which are one.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server,
};

use super::proto::grpc_inference_service_server::SERVICE_NAME;
use crate::server::Context;

/// How often a watched status is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// The service.
pub(super) struct Health {
    pub(super) context: Arc<Context>,
    /// Turns true when streams should end.
    pub(super) closing: watch::Receiver<bool>,
}

impl Health {
    fn status(context: &Context, service: &str) -> ServingStatus {
        if !service.is_empty() && service != SERVICE_NAME {
            return ServingStatus::ServiceUnknown;
        }
        match context.services.readiness.check() {
            Ok(()) => ServingStatus::Serving,
            Err(_) => ServingStatus::NotServing,
        }
    }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match Self::status(&self.context, &request.get_ref().service) {
            ServingStatus::ServiceUnknown => {
                Err(Status::not_found(format!("unknown service; there are `{SERVICE_NAME}` and ``")))
            }
            status => Ok(Response::new(HealthCheckResponse { status: status.into() })),
        }
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let watch = Watch {
            context: self.context.clone(),
            closing: self.closing.clone(),
            service: request.into_inner().service,
            told: None,
        };
        Ok(Response::new(Box::pin(stream::unfold(watch, |mut watch| async {
            let status = watch.next().await?;
            Some((Ok(HealthCheckResponse { status: status.into() }), watch))
        }))))
    }
}

struct Watch {
    context: Arc<Context>,
    closing: watch::Receiver<bool>,
    service: String,
    told: Option<ServingStatus>,
}

impl Watch {
    /// The next status that differs from the one told last; `None` when the port closes.
    async fn next(&mut self) -> Option<ServingStatus> {
        loop {
            let closing = *self.closing.borrow();
            let status = Health::status(&self.context, &self.service);
            if self.told != Some(status) {
                self.told = Some(status);
                return Some(status);
            }
            if closing {
                return None;
            }
            let _elapsed = tokio::time::timeout(LOOK, self.closing.changed()).await;
        }
    }
}
