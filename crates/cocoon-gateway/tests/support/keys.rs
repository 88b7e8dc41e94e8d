//! Operators and callers with keys.

use bytes::Bytes;
use cocoon_gateway::AccessConfig;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::Value;

use super::{Client, Network, Reply};

pub const TOKEN: &str = "the admin token of these tests, long enough";

pub fn admin(access: &mut AccessConfig) {
    access.admin_token = Some(TOKEN.to_owned().into());
}

pub fn message(method: Method, path: &str, headers: &[(&str, &str)], body: &Value) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "localhost");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    request.header("content-type", "application/json").body(Full::new(body)).unwrap()
}

pub async fn operate(network: &Network, method: Method, path: &str, body: Value) -> Reply {
    let bearer = format!("Bearer {TOKEN}");
    network.client().await.send(message(method, path, &[("authorization", &bearer)], &body)).await
}

pub async fn make_key(network: &Network, settings: Value) -> (String, Value) {
    let reply = operate(network, Method::POST, "/admin/keys", settings).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    assert_eq!(reply.header("cache-control"), "no-store");
    let key = reply.json();
    (key["secret"].as_str().unwrap().to_owned(), key)
}

pub async fn ask_with(client: &mut Client, secret: &str, body: &Value) -> Reply {
    let bearer = format!("Bearer {secret}");
    client.send(message(Method::POST, "/v1/chat/completions", &[("authorization", &bearer)], body)).await
}

pub async fn shown(network: &Network, key: &str) -> Value {
    operate(network, Method::GET, &format!("/admin/keys/{key}"), Value::Null).await.json()
}
