//! The engine for OpenAI-style servers, against the ways in which real servers speak HTTP.

#![allow(clippy::unwrap_used)]

mod answers;
mod bodies;
mod connections;
mod explore;
mod server;

use bytes::{Bytes, BytesMut};
use cocoon_engine::upstream::{HttpEngine, HttpEngineOptions};
use cocoon_engine::{Engine, EngineError, EngineRequest, EngineResponse};
use futures_util::StreamExt;
use http::{HeaderMap, Method};

use server::Server;

fn post(body: &'static str) -> EngineRequest {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/json".parse().unwrap());
    EngineRequest {
        method: Method::POST,
        path: "/v1/chat/completions".to_owned(),
        headers,
        body: Bytes::from_static(body.as_bytes()),
        rest: None,
    }
}

fn engine(server: &Server) -> HttpEngine {
    engine_with(server, HttpEngineOptions::default())
}

fn engine_with(server: &Server, options: HttpEngineOptions) -> HttpEngine {
    HttpEngine::new(&server.url(), options).unwrap()
}

/// What came of a body, and the error that ended it.
async fn read(mut response: EngineResponse) -> (Bytes, Option<EngineError>) {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.body.next().await {
        match chunk {
            Ok(chunk) => body.extend_from_slice(&chunk),
            Err(error) => {
                assert!(response.body.next().await.is_none(), "a body goes on after its error");
                return (body.freeze(), Some(error));
            }
        }
    }
    (body.freeze(), None)
}

/// The whole body of an answer that must be complete.
async fn whole(engine: &HttpEngine) -> Bytes {
    let (body, error) = read(engine.call(post("{}")).await.unwrap()).await;
    assert!(error.is_none(), "{error:?}");
    body
}
