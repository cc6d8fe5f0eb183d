//! `coracle top`: what nodes and pods use now.

use anyhow::{Context, Result};
use clap::{Subcommand, ValueEnum};
use kube::Client;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::connect::{Connection, connect};
use super::get::align;
use crate::kinds::quantity::Quantity;

/// Show what nodes or pods use of processor and memory.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Nodes, with their share of what they have.
    #[command(alias = "node", alias = "no")]
    Nodes {
        #[command(flatten)]
        choice: Choice,
    },
    /// Pods, each the sum of its containers.
    #[command(alias = "pod", alias = "po")]
    Pods {
        #[command(flatten)]
        choice: Choice,
        /// Of all namespaces.
        #[arg(short = 'A', long)]
        all_namespaces: bool,
        /// Each container by itself.
        #[arg(long)]
        containers: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Choice {
    /// Only this one.
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Only those whose labels match, e.g. app=cart.
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// The most first, of this; otherwise by name.
    #[arg(long, value_name = "RESOURCE")]
    sort_by: Option<SortBy>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SortBy {
    Cpu,
    Memory,
}

/// One line to be.
struct Usage {
    names: Vec<String>,
    cpu: Quantity,
    memory: Quantity,
}

pub fn run(args: Args) -> Result<()> {
    super::block_on(1, async move {
        let (client, namespace) = connect(&args.connection).await?;
        match args.what {
            What::Nodes { choice } => {
                let metrics = fetch(&client, "nodes", &choice).await?;
                let capacities = client.request::<Value>(request("/api/v1/nodes")?).await?;
                print(nodes(&metrics, choice.sort_by), &["NAME"], Some(&capacities));
            }
            What::Pods { choice, all_namespaces, containers } => {
                let path = if all_namespaces { "pods".to_owned() } else { format!("namespaces/{namespace}/pods") };
                let metrics = fetch(&client, &path, &choice).await?;
                let usages = pods(&metrics, all_namespaces, containers, choice.sort_by);
                let headings: &[&str] = match (all_namespaces, containers) {
                    (false, false) => &["NAME"],
                    (false, true) => &["POD", "NAME"],
                    (true, false) => &["NAMESPACE", "NAME"],
                    (true, true) => &["NAMESPACE", "POD", "NAME"],
                };
                print(usages, headings, None);
            }
        }
        Ok(())
    })
}

fn request(path: &str) -> Result<http::Request<Vec<u8>>> {
    Ok(http::Request::get(path).body(Vec::new())?)
}

/// The metrics asked for: a list's items, or the one that was named.
async fn fetch(client: &Client, path: &str, choice: &Choice) -> Result<Vec<Value>> {
    let mut path = format!("/apis/metrics.k8s.io/v1beta1/{path}");
    if let Some(name) = &choice.name {
        path.push_str(&format!("/{name}"));
    } else if let Some(selector) = &choice.selector {
        path.push_str(&format!("?labelSelector={}", utf8_percent_encode(selector, NON_ALPHANUMERIC)));
    }
    let mut answer: Value = client.request(request(&path)?).await.context("this cluster tells no metrics")?;
    Ok(match answer["items"].take() {
        Value::Array(items) => items,
        _ => vec![answer],
    })
}

fn usage(names: Vec<String>, usage: &Value) -> Usage {
    Usage { names, cpu: Quantity::of(usage, "cpu"), memory: Quantity::of(usage, "memory") }
}

fn sorted(mut usages: Vec<Usage>, by: Option<SortBy>) -> Vec<Usage> {
    usages.sort_by(|a, b| match by {
        Some(SortBy::Cpu) => b.cpu.cmp(&a.cpu),
        Some(SortBy::Memory) => b.memory.cmp(&a.memory),
        None => a.names.cmp(&b.names),
    });
    usages
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn nodes(metrics: &[Value], by: Option<SortBy>) -> Vec<Usage> {
    sorted(metrics.iter().map(|node| usage(vec![text(&node["metadata"]["name"])], &node["usage"])).collect(), by)
}

fn pods(metrics: &[Value], with_namespace: bool, by_container: bool, by: Option<SortBy>) -> Vec<Usage> {
    let of = |pod: &Value| {
        let namespace = with_namespace.then(|| text(&pod["metadata"]["namespace"]));
        let names: Vec<String> = namespace.into_iter().chain([text(&pod["metadata"]["name"])]).collect();
        let each = pod["containers"].as_array().map(Vec::as_slice).unwrap_or_default().iter();
        if by_container {
            let name = |container: &Value| [names.clone(), vec![text(&container["name"])]].concat();
            return each.map(|container| usage(name(container), &container["usage"])).collect();
        }
        let sum = |resource: &str| {
            let amounts = each.clone().map(|container| Quantity::of(&container["usage"], resource));
            amounts.fold(Quantity::ZERO, Quantity::plus)
        };
        vec![Usage { cpu: sum("cpu"), memory: sum("memory"), names }]
    };
    sorted(metrics.iter().flat_map(of).collect(), by)
}

fn print(usages: Vec<Usage>, headings: &[&str], capacities: Option<&Value>) {
    if usages.is_empty() {
        eprintln!("No resources found");
        return;
    }
    for line in align(&table(&usages, headings, capacities)) {
        println!("{line}");
    }
}

/// As kubectl prints it. `capacities`: the NodeList that shares are counted against.
fn table(usages: &[Usage], headings: &[&str], capacities: Option<&Value>) -> Vec<Vec<String>> {
    let headings = headings.iter().map(|heading| (*heading).to_owned());
    let figures: &[&str] = match capacities {
        Some(_) => &["CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"],
        None => &["CPU(cores)", "MEMORY(bytes)"],
    };
    let mut lines = vec![headings.chain(figures.iter().map(|figure| (*figure).to_owned())).collect::<Vec<_>>()];
    for usage in usages {
        let mut line = usage.names.clone();
        for (resource, amount) in [("cpu", usage.cpu), ("memory", usage.memory)] {
            line.push(match resource {
                "cpu" => format!("{}m", amount.millis()),
                _ => format!("{}Mi", amount.units() / (1 << 20)),
            });
            if let Some(nodes) = capacities {
                line.push(share(nodes, &usage.names[0], resource, amount));
            }
        }
        lines.push(line);
    }
    lines
}

fn share(nodes: &Value, node: &str, resource: &str, used: Quantity) -> String {
    let mut known = nodes["items"].as_array().map(Vec::as_slice).unwrap_or_default().iter();
    let found = known.find(|known| known["metadata"]["name"] == node);
    let has = found.map_or(Quantity::ZERO, |node| Quantity::of(&node["status"]["allocatable"], resource));
    let percent = (i128::from(used.millis()) * 100).checked_div(has.millis().into());
    percent.map_or_else(|| "<unknown>".to_owned(), |percent| format!("{percent}%"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(namespace: &str, name: &str, cpu: &str, memory: &str) -> Value {
        let usage = json!({ "cpu": cpu, "memory": memory });
        json!({
            "metadata": { "namespace": namespace, "name": name },
            "containers": [{ "name": "a", "usage": usage }, { "name": "b", "usage": usage }],
        })
    }

    #[test]
    fn pods_are_sums_or_each_container_alone() {
        let metrics = [pod("x", "p", "1500001n", "1Mi"), pod("a", "q", "1", "4Mi")];
        let lines =
            |usages: Vec<Usage>| table(&usages, &[], None)[1..].iter().map(|line| line.join(" ")).collect::<Vec<_>>();
        assert_eq!(lines(pods(&metrics, false, false, None)), ["p 4m 2Mi", "q 2000m 8Mi"]);
        assert_eq!(lines(pods(&metrics, true, false, None)), ["a q 2000m 8Mi", "x p 4m 2Mi"]);
        assert_eq!(lines(pods(&metrics, false, false, Some(SortBy::Cpu)))[0], "q 2000m 8Mi");
        assert_eq!(lines(pods(&metrics[..1], false, true, None)), ["p a 2m 1Mi", "p b 2m 1Mi"]);
    }

    #[test]
    fn nodes_show_their_share_of_what_they_have() {
        let metrics = [json!({ "metadata": { "name": "n" }, "usage": { "cpu": "500m", "memory": "512Mi" } })];
        let list = json!({ "items": [{ "metadata": { "name": "n" }, "status": { "allocatable": { "cpu": "2", "memory": "1Gi" } } }] });
        let shown = table(&nodes(&metrics, None), &["NAME"], Some(&list));
        assert_eq!(shown[1], ["n", "500m", "25%", "512Mi", "50%"]);
        let shown = table(&nodes(&metrics, None), &["NAME"], Some(&json!({})));
        assert_eq!(shown[1][2], "<unknown>");
    }
}
