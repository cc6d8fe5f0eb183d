//! Who provides what to whom: from the names that components import and export to the wires between
//! them. Pure.

/// What a container's component wants and has to offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub container: String,
    pub imports: Vec<String>,
    pub exports: Vec<String>,
}

/// An export of one part that is the import of another; parts by their place in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wire {
    pub provider: usize,
    pub export: String,
    pub consumer: usize,
    pub import: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Each part after those that it imports from; the last is the one that is run.
    pub order: Vec<usize>,
    pub wires: Vec<Wire>,
}

/// Wires up the first part, which is the one that is run, with the others; all of them must be of use.
/// What nobody exports is left to the host.
pub fn plan(parts: &[Part]) -> Result<Plan, String> {
    let mut plan = Plan::default();
    let Some(main) = parts.first() else { return Ok(plan) };
    visit(parts, 0, &mut Vec::new(), &mut plan)?;
    match (0..parts.len()).find(|part| !plan.order.contains(part)).and_then(|unused| parts.get(unused)) {
        None => Ok(plan),
        Some(unused) => Err(format!(
            "container {:?} provides nothing: it exports {}, and {:?} and what it is composed with import {} from \
             each other",
            unused.container,
            listed(&unused.exports),
            main.container,
            listed(&plan.wires.iter().map(|wire| wire.import.clone()).collect::<Vec<_>>()),
        )),
    }
}

fn visit(parts: &[Part], at: usize, path: &mut Vec<usize>, plan: &mut Plan) -> Result<(), String> {
    if plan.order.contains(&at) {
        return Ok(());
    }
    let name = |part: usize| parts.get(part).map_or("", |part| part.container.as_str());
    if let Some(begin) = path.iter().position(|&part| part == at) {
        let circle: Vec<&str> = path.iter().skip(begin).chain([&at]).map(|&part| name(part)).collect();
        return Err(format!("the containers import each other's interfaces in a circle: {}", circle.join(" <- ")));
    }
    path.push(at);
    for import in parts.get(at).map(|part| part.imports.as_slice()).unwrap_or_default() {
        if let Some((provider, export)) = provider(parts, at, import)? {
            visit(parts, provider, path, plan)?;
            plan.wires.push(Wire { provider, export: export.to_owned(), consumer: at, import: import.clone() });
        }
    }
    path.pop();
    plan.order.push(at);
    Ok(())
}

/// Which other part exports what `consumer` imports, and by which name.
fn provider<'a>(parts: &'a [Part], consumer: usize, import: &str) -> Result<Option<(usize, &'a str)>, String> {
    let others = || parts.iter().enumerate().filter(|(part, _)| *part != consumer);
    let exporting = |fits: fn(&str, &str) -> bool| -> Vec<(usize, &'a str)> {
        let fitting =
            |(part, of): (usize, &'a Part)| Some((part, of.exports.iter().find(|name| fits(name, import))?.as_str()));
        others().filter_map(fitting).collect()
    };
    let name = |part: usize| parts.get(part).map_or("", |part| part.container.as_str());
    let mut found = exporting(|export, import| export == import);
    if found.is_empty() {
        found = exporting(is_compatible);
    }
    match found.as_slice() {
        [one] => Ok(Some(*one)),
        [(one, _), (two, _), ..] => Err(format!(
            "container {:?} imports `{import}`, which both {:?} and {:?} export",
            name(consumer),
            name(*one),
            name(*two)
        )),
        [] => match exporting(|export, import| split(export).0 == split(import).0).first() {
            // The host may well have another version of its own interfaces.
            Some((other, export)) if !import.starts_with("wasi:") => Err(format!(
                "container {:?} imports `{import}`, and {:?} exports `{export}`: the versions do not fit",
                name(consumer),
                name(*other)
            )),
            _ => Ok(None),
        },
    }
}

fn split(name: &str) -> (&str, &str) {
    name.split_once('@').unwrap_or((name, ""))
}

/// Whether an export serves who imports another version of it, as the component model has it: releases
/// promise to stay compatible until the first number of the version that is not zero changes.
fn is_compatible(export: &str, import: &str) -> bool {
    fn track(version: &str) -> Option<Vec<&str>> {
        let numbers: Vec<&str> = version.split('.').collect();
        if version.contains('-') || numbers.len() != 3 {
            return None;
        }
        let kept = numbers.iter().position(|number| *number != "0")? + 1;
        // Of 0.0.x nothing is promised.
        (kept < 3).then(|| numbers.into_iter().take(kept).collect())
    }
    let ((export, have), (import, want)) = (split(export), split(import));
    export == import && track(have).is_some_and(|have| track(want).as_ref() == Some(&have))
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(container: &str, imports: &[&str], exports: &[&str]) -> Part {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Part { container: container.to_owned(), imports: owned(imports), exports: owned(exports) }
    }

    fn wires(plan: &Plan) -> Vec<(usize, usize)> {
        plan.wires.iter().map(|wire| (wire.provider, wire.consumer)).collect()
    }

    #[test]
    fn each_comes_after_what_it_imports_from() {
        let parts = [
            part(
                "web",
                &["wasi:io/poll@0.2.0", "acme:tax/rates@1.0.0", "acme:log/log"],
                &["wasi:http/incoming-handler@0.2.0"],
            ),
            part("log", &[], &["acme:log/log"]),
            part("tax", &["acme:log/log"], &["acme:tax/rates@1.0.0", "acme:tax/other"]),
        ];
        let plan = plan(&parts).expect("a plan");
        assert_eq!(plan.order, [1, 2, 0]);
        assert_eq!(wires(&plan), [(1, 2), (2, 0), (1, 0)]);
    }

    #[test]
    fn versions_that_promise_to_fit_do() {
        for (export, import, fits) in [
            ("a:b/c@1.2.0", "a:b/c@1.0.0", true),
            ("a:b/c@0.2.6", "a:b/c@0.2.0", true),
            ("a:b/c@0.3.0", "a:b/c@0.2.0", false),
            ("a:b/c@2.0.0", "a:b/c@1.0.0", false),
            ("a:b/c@0.0.2", "a:b/c@0.0.1", false),
            ("a:b/c@1.0.0-rc", "a:b/c@1.0.0", false),
            ("a:b/c", "a:b/c@1.0.0", false),
            ("a:b/d@1.0.0", "a:b/c@1.0.0", false),
        ] {
            assert_eq!(is_compatible(export, import), fits, "{export} for {import}");
            let parts = [part("web", &[import], &[]), part("lib", &[], &[export])];
            assert_eq!(plan(&parts).is_ok(), fits);
        }
    }

    #[test]
    fn what_does_not_fit_is_explained() {
        let cases: &[(&[Part], &str)] = &[
            (
                &[
                    part("web", &["a:b/c"], &[]),
                    part("one", &["a:b/d"], &["a:b/c"]),
                    part("two", &["a:b/c"], &["a:b/d"]),
                ],
                "in a circle: one <- two <- one",
            ),
            (
                &[part("web", &["a:b/c@1.0.0"], &[]), part("lib", &[], &["a:b/c@2.0.0"])],
                "container \"web\" imports `a:b/c@1.0.0`, and \"lib\" exports `a:b/c@2.0.0`: the versions do not fit",
            ),
            (
                &[part("web", &["a:b/c"], &[]), part("one", &[], &["a:b/c"]), part("two", &[], &["a:b/c"])],
                "imports `a:b/c`, which both \"one\" and \"two\" export",
            ),
            (
                &[part("web", &["a:b/c"], &[]), part("lib", &[], &["a:b/c"]), part("idle", &[], &["x:y/z"])],
                "container \"idle\" provides nothing: it exports x:y/z, and \"web\" and what it is composed with import a:b/c",
            ),
        ];
        for (parts, words) in cases {
            let why = plan(parts).expect_err("refused");
            assert!(why.contains(words), "{why}");
        }
    }

    #[test]
    fn what_nobody_exports_is_the_hosts() {
        let parts = [
            part("web", &["wasi:http/types@0.2.0", "a:b/c"], &[]),
            part("lib", &[], &["a:b/c", "wasi:http/types@0.3.0"]),
        ];
        assert_eq!(wires(&plan(&parts).expect("a plan")), [(1, 0)]);
        assert_eq!(plan(&[]), Ok(Plan::default()));
        assert_eq!(plan(&[part("web", &["a:b/c"], &[])]).map(|plan| plan.order), Ok(vec![0]));
    }
}
