//! `coracle get`: the server's own Tables, or the objects as YAML, JSON or names.

use anyhow::{Result, bail};
use clap::ValueEnum;
use futures::StreamExt;
use kube::Client;
use serde_json::Value;

use super::connect::{Connection, connect};
use super::resource::{self, Resource};
use super::stream::lines;

/// Show objects: `coracle get pods`, `coracle get deploy/cart -o yaml`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The type, or TYPE/NAME; several types are separated by commas.
    #[arg(value_name = "TYPE")]
    what: String,
    /// Only these objects.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Of all namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only objects whose labels match, e.g. app=cart.
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// Only objects whose fields match, e.g. status.phase=Running.
    #[arg(long, value_name = "SELECTOR")]
    field_selector: Option<String>,
    /// How to print.
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Output>,
    /// Go on printing what changes.
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Wide,
    Yaml,
    Json,
    Name,
}

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

pub fn run(args: Args) -> Result<()> {
    super::block_on(1, async move {
        let (client, namespace) = connect(&args.connection).await?;
        let namespace = (!args.all_namespaces).then_some(namespace.as_str());
        let targets = targets(&args.what, &args.names)?;
        if args.watch && targets.len() > 1 {
            bail!("only one type can be watched at a time");
        }
        for (word, name) in &targets {
            let resource = resource::find(&client, word).await?;
            show(&client, &args, &resource, namespace, name.as_deref()).await?;
        }
        Ok(())
    })
}

/// The types and names asked for: `pods,svc`, `pod a b`, `pod/a`.
fn targets(what: &str, names: &[String]) -> Result<Vec<(String, Option<String>)>> {
    if let Some((word, name)) = what.split_once('/') {
        let more = names.iter().map(|other| other.split_once('/').map(|(w, n)| (w.to_owned(), Some(n.to_owned()))));
        let first = Some((word.to_owned(), Some(name.to_owned())));
        let all: Option<Vec<_>> = std::iter::once(first).chain(more).collect();
        return all.ok_or_else(|| anyhow::anyhow!("either all arguments are TYPE/NAME, or none"));
    }
    if names.is_empty() {
        return Ok(what.split(',').map(|word| (word.to_owned(), None)).collect());
    }
    Ok(names.iter().map(|name| (what.to_owned(), Some(name.clone()))).collect())
}

async fn show(
    client: &Client,
    args: &Args,
    resource: &Resource,
    namespace: Option<&str>,
    name: Option<&str>,
) -> Result<()> {
    let path = path(resource, namespace, name);
    let objects = matches!(args.output, Some(Output::Yaml | Output::Json | Output::Name));
    let query = query(args, if args.watch { None } else { name });
    let request = http::Request::get(format!("{path}{query}"));
    let request = if objects { request } else { request.header("Accept", TABLE) };
    let answer: Value = client.request(request.body(Vec::new())?).await?;
    let with_namespace = namespace.is_none() && resource.namespaced;
    print(&answer, args.output, resource, with_namespace)?;
    if args.watch { follow(client, args, resource, namespace, name, &answer).await } else { Ok(()) }
}

/// The URL path of a resource's collection or of one object.
pub fn path(resource: &Resource, namespace: Option<&str>, name: Option<&str>) -> String {
    let url = match namespace.filter(|_| resource.namespaced) {
        Some(namespace) => format!("{}/namespaces/{namespace}/{}", prefix(resource), resource.api.plural),
        None => format!("{}/{}", prefix(resource), resource.api.plural),
    };
    name.map_or(url.clone(), |name| format!("{url}/{name}"))
}

fn prefix(resource: &Resource) -> String {
    if resource.api.group.is_empty() {
        format!("/api/{}", resource.api.version)
    } else {
        format!("/apis/{}/{}", resource.api.group, resource.api.version)
    }
}

fn query(args: &Args, name: Option<&str>) -> String {
    if name.is_some() {
        return String::new();
    }
    let encode =
        |text: &String| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
    let labels = args.selector.as_ref().map(|selector| format!("labelSelector={}", encode(selector)));
    let fields = args.field_selector.as_ref().map(|selector| format!("fieldSelector={}", encode(selector)));
    let all: Vec<String> = labels.into_iter().chain(fields).collect();
    if all.is_empty() { String::new() } else { format!("?{}", all.join("&")) }
}

async fn follow(
    client: &Client,
    args: &Args,
    resource: &Resource,
    namespace: Option<&str>,
    name: Option<&str>,
    seen: &Value,
) -> Result<()> {
    let version = seen.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or("0");
    let mut query = query(args, None);
    query.push_str(if query.is_empty() { "?" } else { "&" });
    query.push_str(&format!("watch=true&resourceVersion={version}"));
    if let Some(name) = name {
        query.push_str(&format!("&fieldSelector=metadata.name%3D{name}"));
    }
    let objects = matches!(args.output, Some(Output::Yaml | Output::Json | Output::Name));
    let request = http::Request::get(format!("{}{query}", path(resource, namespace, None)));
    let request = if objects { request } else { request.header("Accept", TABLE) };
    let mut events = std::pin::pin!(lines(client, request.body(Vec::new())?).await?);
    while let Some(line) = events.next().await {
        let event: Value = serde_json::from_str(&line?)?;
        match event.get("type").and_then(Value::as_str) {
            Some("BOOKMARK") => {}
            Some("ERROR") => bail!("the watch ended: {}", event.pointer("/object/message").unwrap_or(&Value::Null)),
            _ => print_rows(&event["object"], args.output, resource, namespace.is_none() && resource.namespaced)?,
        }
    }
    Ok(())
}

fn print(answer: &Value, output: Option<Output>, resource: &Resource, with_namespace: bool) -> Result<()> {
    let empty = |list: &str| answer.get(list).and_then(Value::as_array).is_some_and(Vec::is_empty);
    if !matches!(output, Some(Output::Yaml | Output::Json)) && (empty("rows") || empty("items")) {
        eprintln!("No resources found");
        return Ok(());
    }
    if is_table(answer) {
        for line in table(answer, output == Some(Output::Wide), with_namespace, true) {
            println!("{line}");
        }
        return Ok(());
    }
    print_rows(answer, output, resource, with_namespace)
}

fn print_rows(answer: &Value, output: Option<Output>, resource: &Resource, with_namespace: bool) -> Result<()> {
    if is_table(answer) {
        for line in table(answer, output == Some(Output::Wide), with_namespace, false) {
            println!("{line}");
        }
        return Ok(());
    }
    match output {
        Some(Output::Yaml) => print!("{}", serde_yaml::to_string(answer)?),
        Some(Output::Name) => {
            let items = answer.get("items").and_then(Value::as_array).cloned().unwrap_or_else(|| vec![answer.clone()]);
            for item in &items {
                println!(
                    "{}",
                    resource.named(item.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default())
                );
            }
        }
        _ => println!("{}", serde_json::to_string_pretty(answer)?),
    }
    Ok(())
}

fn is_table(answer: &Value) -> bool {
    answer.get("kind").and_then(Value::as_str) == Some("Table")
}

/// A Table as aligned lines.
fn table(answer: &Value, wide: bool, with_namespace: bool, header: bool) -> Vec<String> {
    let columns: Vec<(usize, String)> = answer["columnDefinitions"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
        .filter(|(_, column)| wide || column["priority"].as_i64().unwrap_or(0) == 0)
        .map(|(index, column)| (index, column["name"].as_str().unwrap_or_default().to_uppercase()))
        .collect();
    let mut lines: Vec<Vec<String>> = Vec::new();
    if header {
        let first = with_namespace.then(|| "NAMESPACE".to_owned());
        lines.push(first.into_iter().chain(columns.iter().map(|(_, name)| name.clone())).collect());
    }
    for row in answer["rows"].as_array().into_iter().flatten() {
        let namespace = row.pointer("/object/metadata/namespace").and_then(Value::as_str).unwrap_or_default();
        let first = with_namespace.then(|| namespace.to_owned());
        let cells = columns.iter().map(|(index, _)| cell(&row["cells"][*index]));
        lines.push(first.into_iter().chain(cells).collect());
    }
    align(&lines)
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<none>".to_owned(),
        other => other.to_string(),
    }
}

/// Pads each column to its widest cell.
pub fn align(lines: &[Vec<String>]) -> Vec<String> {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let pad = |line: &Vec<String>| -> String {
        line.iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}   "))
            .collect::<String>()
            .trim_end()
            .to_owned()
    };
    lines.iter().map(pad).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_name_types_and_objects() {
        let plain = |what: &str, names: &[&str]| {
            targets(what, &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).map(|found| {
                found.into_iter().map(|(w, n)| n.map_or(w.clone(), |n| format!("{w}/{n}"))).collect::<Vec<_>>()
            })
        };
        assert_eq!(plain("pods,svc", &[]).expect("types"), ["pods", "svc"]);
        assert_eq!(plain("pod", &["a", "b"]).expect("names"), ["pod/a", "pod/b"]);
        assert_eq!(plain("pod/a", &["svc/b"]).expect("pairs"), ["pod/a", "svc/b"]);
        assert!(plain("pod/a", &["b"]).is_err());
    }

    #[test]
    fn tables_are_aligned_and_wide_columns_hidden() {
        let answer = json!({"kind": "Table",
            "columnDefinitions": [{"name": "Name", "priority": 0}, {"name": "IP", "priority": 1}, {"name": "Age", "priority": 0}],
            "rows": [{"cells": ["a-long-name", "1.2.3.4", "5s"], "object": {"metadata": {"namespace": "shop"}}}, {"cells": ["b", null, 7]}]});
        assert_eq!(table(&answer, false, false, true), ["NAME          AGE", "a-long-name   5s", "b             7"]);
        assert_eq!(table(&answer, true, true, false)[0], "shop   a-long-name   1.2.3.4   5s");
    }
}
