//! CEL: the expressions that users write into custom resources' schemas and into admission policies.
//!
//! Parsing and the functions of Kubernetes's CEL come from the crates `cel` and `kube-cel`; the walk
//! over the syntax tree (`eval`) is ours, because an expression is input: whoever may write a policy
//! must not be able to stop the server with it. The crates' own interpreter has no limit of work, copies
//! what it selects from, panics on messages, and takes a field of a number for `false`. Ours counts every
//! node, element and byte against a [`Budget`], and its depth costs heap, not stack.
//!
//! Names of variables and functions are known beforehand, and are checked by [`Program::undeclared`]; types as
//! far as they follow from those of the variables, by [`Program::check`]. What only a value shows fails when
//! the expression is evaluated.

pub mod authorizer;
pub mod check;
mod eval;
mod functions;
pub mod pattern;
pub mod value;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use kube_cel::cel::Value;
use kube_cel::cel::common::ast::{EntryExpr, Expr, IdedExpr};
use kube_cel::cel::parser::Parser;

/// Words that CEL keeps for itself: they name no variable and no field.
pub const RESERVED: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// The longest expression in bytes. Real policies stay far below; the parser's time grows with it.
pub const MAX_EXPRESSION: usize = 16 << 10;
/// How deep the syntax tree of an expression may be.
const MAX_DEPTH: usize = 500;
/// How deep its brackets may be: what the parser takes.
const MAX_BRACKETS: usize = 90;
/// Stack for the parser, which recurses once for each level of nesting and for each term of a sum.
const PARSER_STACK: usize = 64 << 20;

/// What may still be spent on evaluating, in steps: nodes visited, elements and bytes handled.
/// Upstream allows a call of the API 10,000,000 units, and an expression a tenth of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget(u64);

impl Budget {
    pub const CALL: u64 = 10_000_000;
    pub const EXPRESSION: u64 = 1_000_000;

    pub const fn new(steps: u64) -> Self {
        Self(steps)
    }

    pub const fn left(self) -> u64 {
        self.0
    }

    /// Takes `steps`, or says that there are not so many left.
    fn take(&mut self, steps: u64) -> Result<(), String> {
        match self.0.checked_sub(steps) {
            Some(left) => {
                self.0 = left;
                Ok(())
            }
            None => {
                self.0 = 0;
                Err("operation cancelled: actual cost limit exceeded".to_owned())
            }
        }
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self(Self::EXPRESSION)
    }
}

/// The variables that an expression sees.
#[derive(Debug, Default, Clone)]
pub struct Scope(Vec<(String, Value)>);

impl Scope {
    /// Adds or replaces a variable.
    pub fn set(&mut self, name: &str, value: Value) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }
}

/// What an expression comes to, or why it comes to nothing.
type Outcome = Result<Value, String>;

/// A parsed expression.
#[derive(Debug, Clone)]
pub struct Program {
    root: IdedExpr,
    /// What it names without binding it.
    variables: BTreeSet<String>,
    functions: BTreeSet<String>,
}

impl Program {
    /// Parses `source`. The error is for the author of the expression.
    pub fn compile(source: &str) -> Result<Self, String> {
        if source.len() > MAX_EXPRESSION {
            return Err(format!("expression is {} bytes long, at most {MAX_EXPRESSION} are allowed", source.len()));
        }
        // The parser takes the square of the nesting to find out that there is too much of it.
        if brackets(source) > MAX_BRACKETS {
            return Err(format!("ERROR: <input>:1:1: expression recursion limit exceeded: {MAX_BRACKETS}"));
        }
        // The tree is measured and, if too deep, dropped on the parser's stack.
        stacker::grow(PARSER_STACK, || {
            let parse = || Parser::new().enable_optional_syntax(true).parse(source);
            let root = catch_unwind(AssertUnwindSafe(parse))
                .map_err(|_| "ERROR: <input>:1:1: Syntax error: the expression cannot be parsed".to_owned())?
                .map_err(|errors| errors.to_string())?;
            let mut names = Names::default();
            names.visit(&root, MAX_DEPTH)?;
            functions::check_patterns(&root)?;
            let Names { variables, functions, .. } = names;
            Ok(Self { root, variables, functions })
        })
    }

    /// What the expression comes to, or why it comes to nothing.
    pub fn eval(&self, scope: &Scope, budget: &mut Budget) -> Result<Value, String> {
        eval::run(&self.root, scope, budget)
    }

    /// Evaluates a condition.
    pub fn holds(&self, scope: &Scope, budget: &mut Budget) -> Result<bool, String> {
        match self.eval(scope, budget)? {
            Value::Bool(holds) => Ok(holds),
            other => Err(format!("expected a bool, found {}", value::type_name(&other))),
        }
    }

    /// The type of what it comes to, given those of its variables; or why it cannot be evaluated.
    pub fn check<'t>(&self, variables: &[(&str, check::Type<'t>)]) -> Result<check::Type<'t>, String> {
        check::check(&self.root, variables)
    }

    /// Whether the expression reads `variable`.
    pub fn reads(&self, variable: &str) -> bool {
        self.variables.contains(variable)
    }

    /// Upstream's complaint about the first name that is neither among `variables` nor a function.
    pub fn undeclared(&self, variables: &[&str]) -> Option<String> {
        let unknown = |name: &&String| !variables.contains(&name.as_str()) && !eval::is_type(name);
        let variable = self.variables.iter().find(unknown);
        let function = || self.functions.iter().find(|name| !functions::exists(name));
        let name = variable.or_else(function)?;
        Some(format!("undeclared reference to '{name}' (in container '')"))
    }
}

/// How deep the brackets outside of strings are nested.
fn brackets(source: &str) -> usize {
    let (mut depth, mut deepest, mut quote, mut escaped) = (0usize, 0, None, false);
    for byte in source.bytes() {
        match (quote, byte) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), b'\\') => escaped = true,
            (Some(open), _) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, b'\'' | b'"') => quote = Some(byte),
            (None, b'(' | b'[' | b'{') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (None, b')' | b']' | b'}') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
    }
    deepest
}

/// Collects the free names of an expression.
#[derive(Default)]
struct Names {
    bound: Vec<String>,
    variables: BTreeSet<String>,
    functions: BTreeSet<String>,
}

impl Names {
    fn visit(&mut self, node: &IdedExpr, depth: usize) -> Result<(), String> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(format!("ERROR: <input>:1:1: expression is nested more than {MAX_DEPTH} levels deep"));
        };
        match &node.expr {
            Expr::Unspecified | Expr::Literal(_) => {}
            Expr::Ident(name) => self.name(name),
            Expr::Select(select) => {
                // `google.protobuf.Timestamp` is one name.
                if !eval::qualified_type(node) {
                    self.visit(&select.operand, depth)?;
                }
            }
            Expr::List(list) => list.elements.iter().try_for_each(|element| self.visit(element, depth))?,
            Expr::Map(map) => {
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        self.visit(&entry.key, depth)?;
                        self.visit(&entry.value, depth)?;
                    }
                }
            }
            Expr::Struct(structure) => {
                // Admission policies build objects this way: `Object{spec: Object.spec{…}}`.
                for entry in &structure.entries {
                    if let EntryExpr::StructField(field) = &entry.expr {
                        self.visit(&field.value, depth)?;
                    }
                }
            }
            Expr::Call(call) => {
                if let Some(bound) = eval::macro_bindings(call) {
                    let body = bound.len();
                    let outer = call.args.get(body..).unwrap_or_default();
                    if let Some(target) = call.target.as_deref().filter(|_| !functions::is_namespaced(call)) {
                        self.visit(target, depth)?;
                    }
                    let before = self.bound.len();
                    self.bound.extend(bound.iter().map(|name| (*name).to_owned()));
                    let done = outer.iter().try_for_each(|arg| self.visit(arg, depth));
                    self.bound.truncate(before);
                    return done;
                }
                let prefix = functions::prefix(call);
                match prefix {
                    Some(prefix) => drop(self.functions.insert(format!("{prefix}.{}", call.func_name))),
                    None => {
                        call.target.iter().try_for_each(|target| self.visit(target, depth))?;
                        self.functions.insert(call.func_name.clone());
                    }
                }
                call.args.iter().try_for_each(|arg| self.visit(arg, depth))?;
            }
            Expr::Comprehension(fold) => {
                self.visit(&fold.iter_range, depth)?;
                self.visit(&fold.accu_init, depth)?;
                let before = self.bound.len();
                self.bound.push(fold.accu_var.clone());
                self.visit(&fold.result, depth)?;
                self.bound.push(fold.iter_var.clone());
                self.visit(&fold.loop_cond, depth)?;
                self.visit(&fold.loop_step, depth)?;
                self.bound.truncate(before);
            }
        }
        Ok(())
    }

    fn name(&mut self, name: &str) {
        if !self.bound.iter().any(|bound| bound == name) {
            self.variables.insert(name.to_owned());
        }
    }
}
