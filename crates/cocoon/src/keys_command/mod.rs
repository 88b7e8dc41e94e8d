//! `cocoon keys`: what is asked for, as requests to the admin API, and what comes back, as text.

mod reach;
mod show;

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use http::Method;
use serde_json::{Map, Value, json};

use crate::cli::{Expiry, Keys, KeysCommand, SetKey, SettingArgs};
use crate::terminal;

use reach::Reach;

/// Does what the command line asks for.
///
/// # Errors
/// The gateway cannot be reached, or refuses.
pub(crate) async fn run(options: Keys) -> anyhow::Result<()> {
    match options.command {
        KeysCommand::Add(add) => {
            let mut body = settings(&add.settings)?;
            body.insert("name".to_owned(), add.name.into());
            let reach = Reach::open(&add.gateway).await?;
            let key = reach.json(Method::POST, "/admin/keys", Some(&Value::Object(body))).await?;
            tell(add.gateway.json, &key, || show::secret(&key, &reach, "The key is made."))?;
            reach.close()
        }
        KeysCommand::List(list) => {
            let reach = Reach::open(&list.gateway).await?;
            let mut keys = reach.json(Method::GET, "/admin/keys", None).await?;
            if let (false, Some(Value::Array(data))) = (list.all, keys.get_mut("data")) {
                data.retain(|key| key["state"] != "revoked");
            }
            tell(list.gateway.json, &keys, || show::list(&keys))?;
            reach.close()
        }
        KeysCommand::Show(one) => {
            let reach = Reach::open(&one.gateway).await?;
            let key = reach.json(Method::GET, &path(&one.key), None).await?;
            tell(one.gateway.json, &key, || show::key(&key))?;
            reach.close()
        }
        KeysCommand::Set(set) => {
            let body = Value::Object(changes(&set)?);
            let reach = Reach::open(&set.gateway).await?;
            let key = reach.json(Method::PATCH, &path(&set.key), Some(&body)).await?;
            tell(set.gateway.json, &key, || show::key(&key))?;
            reach.close()
        }
        KeysCommand::Revoke(revoke) => {
            let reach = Reach::open(&revoke.gateway).await?;
            let key = reach.json(Method::DELETE, &path(&revoke.key), None).await?;
            tell(revoke.gateway.json, &key, || show::revoked(&key))?;
            reach.close()
        }
        KeysCommand::Rotate(rotate) => {
            let body = json!({"grace_seconds": rotate.grace.unwrap_or(0)});
            let reach = Reach::open(&rotate.gateway).await?;
            let path = format!("{}/rotate", path(&rotate.key));
            let key = reach.json(Method::POST, &path, Some(&body)).await?;
            tell(rotate.gateway.json, &key, || show::secret(&key, &reach, "The key has a new secret."))?;
            reach.close()
        }
        KeysCommand::Usage(usage) => {
            let fields =
                [("from", &usage.from), ("to", &usage.to), ("key", &usage.key), ("model", &usage.model)];
            let fields = fields.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?)));
            let format = if usage.csv { "csv" } else { "json" };
            let query: Vec<_> = fields
                .chain([("format", format)])
                .map(|(name, value)| format!("{name}={}", encoded(value)))
                .collect();
            let reach = Reach::open(&usage.gateway).await?;
            let path = format!("/admin/usage?{}", query.join("&"));
            if usage.csv {
                terminal::print(&String::from_utf8_lossy(&reach.bytes(Method::GET, &path, None).await?))?;
            } else {
                let told = reach.json(Method::GET, &path, None).await?;
                tell(usage.gateway.json, &told, || show::usage(&told))?;
            }
            reach.close()
        }
    }
}

fn tell(as_json: bool, value: &Value, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    let text = if as_json { format!("{value}\n") } else { text() };
    terminal::print(&text).context("cannot write")
}

fn path(key: &str) -> String {
    format!("/admin/keys/{}", encoded(key))
}

/// A part of a URL.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out += &format!("%{byte:02X}");
        }
    }
    out
}

/// The settings that are named, in the admin API's form.
fn settings(args: &SettingArgs) -> anyhow::Result<Map<String, Value>> {
    let mut fields = Map::new();
    if let Some(expires) = args.expires {
        let now =
            SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?.as_secs();
        let at = match expires {
            Expiry::Never => Value::Null,
            Expiry::At(seconds) if seconds <= now => bail!("--expires lies in the past"),
            Expiry::At(seconds) => seconds.into(),
            Expiry::In(seconds) => now.saturating_add(seconds).into(),
        };
        fields.insert("expires_unix_seconds".to_owned(), at);
    }
    let all_models = &["*".to_owned()][..];
    for (name, values, all) in [("models", &args.model, all_models), ("endpoints", &args.endpoint, &[])] {
        match values.as_slice() {
            [] => continue,
            // As for the other limits.
            [none] if none == "none" => fields.insert(name.to_owned(), all.into()),
            some => fields.insert(name.to_owned(), some.into()),
        };
    }
    for (name, limit) in [
        ("budget_nanoton", args.budget),
        ("budget_per_day_nanoton", args.budget_per_day),
        ("requests_per_minute", args.rpm),
        ("tokens_per_minute", args.tpm),
        ("concurrent_requests", args.concurrent),
    ] {
        if let Some(limit) = limit {
            fields.insert(name.to_owned(), limit.0.map_or(Value::Null, Value::from));
        }
    }
    Ok(fields)
}

fn changes(set: &SetKey) -> anyhow::Result<Map<String, Value>> {
    let mut fields = settings(&set.settings)?;
    if let Some(name) = &set.name {
        fields.insert("name".to_owned(), name.clone().into());
    }
    if set.disable || set.enable {
        fields.insert("disabled".to_owned(), set.disable.into());
    }
    if set.forgive_unsettled {
        fields.insert("forgive_unsettled".to_owned(), true.into());
    }
    if fields.is_empty() {
        bail!(
            "nothing to change: name a setting, such as --budget or --disable; `cocoon keys set --help` lists them"
        );
    }
    Ok(fields)
}
