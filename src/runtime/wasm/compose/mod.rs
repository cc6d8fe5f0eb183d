//! One component from several: the imports of the one that is run are the exports of others.
//!
//! | file | owns |
//! |---|---|
//! | `plan` | who provides what to whom |
//! | `shelf` | the files of what was composed |
//!
//! The parts stay as they are, each with memory of its own; one instance of the whole holds one instance of
//! each. To the host the whole is a component like any other: it has the container's limits, and its bytes,
//! which are the same whenever the parts are, have a digest.

mod plan;
mod shelf;

use wac_graph::types::Package;
use wac_graph::{CompositionGraph, EncodeOptions};

use self::plan::{Part, plan};
pub use self::shelf::Shelf;
use super::super::{ImageError, ImageSource};
use super::artifact::{self, Form, invalid};

/// Components that one container may be made of; far more than anyone writes.
const MAX_PARTS: usize = 16;

/// A container's component to be.
#[derive(Debug, Clone)]
struct Source {
    container: String,
    /// Binary or text.
    bytes: Vec<u8>,
}

/// Composes the images of containers, the first of which is the one that is run, and lays the whole on the
/// shelf; returns its digest. A part that is to start from its initialisation is initialised first, by itself.
pub fn compose_images(parts: &[(String, ImageSource)], shelf: &Shelf) -> Result<String, ImageError> {
    let reference = parts.first().map(|(_, source)| source.reference.as_str()).unwrap_or_default();
    let read = |(container, source): &(String, ImageSource)| {
        let (bytes, _) = artifact::read_to_run(source)?;
        Ok(Source { container: container.clone(), bytes })
    };
    let sources = parts.iter().map(read).collect::<Result<Vec<_>, ImageError>>()?;
    let whole = compose(&sources).map_err(|why| invalid(reference, why))?;
    let put = shelf.put(&whole);
    put.map(|(_, digest)| digest).map_err(|why| invalid(reference, format!("its composition cannot be written: {why}")))
}

/// Composes the first with the others; the error says in words why that is not possible.
fn compose(sources: &[Source]) -> Result<Vec<u8>, String> {
    if sources.len() > MAX_PARTS {
        return Err(format!("{} components are too many for one container: at most {MAX_PARTS}", sources.len()));
    }
    let mut graph = CompositionGraph::new();
    let (mut parts, mut packages) = (Vec::new(), Vec::new());
    for (number, source) in sources.iter().enumerate() {
        let refused = |why: &dyn std::fmt::Display| format!("container {:?}: {why}", source.container);
        if artifact::form_of(&source.bytes).map_err(|why| refused(&why))? == Form::Module {
            return Err(refused(&"its image is a core module; only components can be composed"));
        }
        let binary = wat::parse_bytes(&source.bytes).map_err(|error| refused(&error))?.into_owned();
        let name = format!("coracle:part{number}");
        let package = Package::from_bytes(&name, None, binary, graph.types_mut());
        let package = package.map_err(|error| refused(&format!("{error:#}")))?;
        let world = &graph.types()[package.ty()];
        parts.push(Part {
            container: source.container.clone(),
            imports: world.imports.keys().cloned().collect(),
            exports: world.exports.keys().cloned().collect(),
        });
        packages.push(graph.register_package(package).map_err(|error| refused(&error))?);
    }
    let plan = plan(&parts)?;
    encode(graph, &packages, &parts, &plan)
}

fn encode(
    mut graph: CompositionGraph,
    packages: &[wac_graph::PackageId],
    parts: &[Part],
    plan: &plan::Plan,
) -> Result<Vec<u8>, String> {
    let instances: Vec<_> = packages.iter().map(|package| graph.instantiate(*package)).collect();
    let whole = |error: &dyn std::fmt::Display| format!("the containers cannot be composed: {error}");
    for wire in &plan.wires {
        let (Some(provider), Some(consumer)) = (instances.get(wire.provider), instances.get(wire.consumer)) else {
            continue;
        };
        let export = graph.alias_instance_export(*provider, &wire.export).map_err(|error| whole(&error))?;
        graph.set_instantiation_argument(*consumer, &wire.import, export).map_err(|error| {
            let name = |part: usize| parts.get(part).map_or("", |part| part.container.as_str());
            format!(
                "container {:?} exports `{}` otherwise than {:?} imports it: {:#}",
                name(wire.provider),
                wire.export,
                name(wire.consumer),
                anyhow::Error::from(error)
            )
        })?;
    }
    let (Some(main), Some(run)) = (parts.first(), instances.first()) else { return Err("there is nothing".to_owned()) };
    for name in &main.exports {
        let export = graph.alias_instance_export(*run, name).map_err(|error| whole(&error))?;
        graph.export(export, name).map_err(|error| whole(&error))?;
    }
    graph.encode(EncodeOptions::default()).map_err(|error| whole(&format!("{:#}", anyhow::Error::from(error))))
}
