//! Expressions and what they come to, by tables; and what must not hang, overflow or panic.

use super::*;
use serde_json::{Value as Json, json};

fn scope() -> Scope {
    let mut scope = Scope::default();
    scope.set(
        "self",
        value::from_json(&json!({
            "name": "web", "replicas": 3, "ratio": 0.5, "on": true, "none": null, "namespace": "shop",
            "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 443}],
            "labels": {"app": "web", "tier": "front"}, "empty": [],
        })),
    );
    scope
}

fn eval(source: &str) -> Result<Json, String> {
    let found = Program::compile(source)?.eval(&scope(), &mut Budget::default())?;
    Ok(value::to_json(&found).unwrap_or_else(|| value::type_name(&found).into()))
}

#[test]
fn expressions_come_to_what_the_language_says() {
    let cases = [
        ("self.replicas + 1 == 4", json!(true)),
        ("self.replicas >= 2.5", json!(true)),
        ("self.name.startsWith('w') && self.name.size() == 3", json!(true)),
        ("self.ports.all(p, p.port > 0 && p.port < 1000)", json!(true)),
        ("self.ports.exists(p, p.name == 'b')", json!(true)),
        ("self.ports.exists_one(p, p.port > 100)", json!(true)),
        ("self.ports.map(p, p.port)", json!([80, 443])),
        ("self.ports.map(p, p.port > 100, p.name)", json!(["b"])),
        ("self.ports.filter(p, p.port > 100)", json!([{"name": "b", "port": 443}])),
        ("self.ports.map(p, self.ports.map(q, p.port + q.port))", json!([[160, 523], [523, 886]])),
        ("self.labels.map(k, k)", json!(["app", "tier"])),
        ("self.labels.all(k, v, k != v)", json!(true)),
        ("self.ports.transformList(i, p, i)", json!([0, 1])),
        ("self.labels.transformMap(k, v, v + k)", json!({"app": "webapp", "tier": "fronttier"})),
        ("cel.bind(x, self.replicas, x * x)", json!(9)),
        ("has(self.nothing)", json!(false)),
        ("has(self.name) ? 'yes' : 'no'", json!("yes")),
        ("self.?nothing.orValue('x')", json!("x")),
        ("self.?name.orValue('x')", json!("web")),
        ("self.?labels.?app.hasValue()", json!(true)),
        ("self.labels[?'zone'].orValue('z')", json!("z")),
        ("optional.of(2).optMap(x, x * 2).value()", json!(4)),
        ("'app' in self.labels && !('zone' in self.labels)", json!(true)),
        ("80 in self.ports.map(p, p.port)", json!(true)),
        ("self.labels['app']", json!("web")),
        ("self.namespace", json!("shop")),
        ("type(self.replicas) == int && type('') == string && type(self.ports) == list", json!(true)),
        ("self.none == null", json!(true)),
        ("self.missing == 1 || true", json!(true)),
        ("false && self.missing == 1", json!(false)),
        ("[1, 2] + [3]", json!([1, 2, 3])),
        ("'a' + 'b'", json!("ab")),
        ("{'a': 1}.a", json!(1)),
        ("-5 / 2", json!(-2)),
        ("7 % 3", json!(1)),
        ("int('7') + 1", json!(8)),
        ("string(7)", json!("7")),
        ("dyn(1) == 1.0", json!(true)),
        ("'web-1'.matches('^[a-z]+-\\\\d+$')", json!(true)),
        ("'a1b22'.findAll('[0-9]+')", json!(["1", "22"])),
        ("'%s has %d'.format([self.name, self.replicas])", json!("web has 3")),
        ("'a,b'.split(',').join('-')", json!("a-b")),
        ("'HeLLo'.lowerAscii()", json!("hello")),
        ("quantity('1Gi').isGreaterThan(quantity('500Mi'))", json!(true)),
        ("isQuantity('1Q!')", json!(false)),
        ("semver('1.2.3').isLessThan(semver('1.10.0'))", json!(true)),
        ("cidr('10.0.0.0/8').containsIP(ip('10.1.2.3'))", json!(true)),
        ("url('https://a.example:80/x').getHost()", json!("a.example:80")),
        ("[3, 1, 2].isSorted()", json!(false)),
        ("[1, 2, 3].sum()", json!(6)),
        ("sets.contains([1, 2, 3], [2])", json!(true)),
        ("math.greatest(1, 5, 3)", json!(5)),
        ("duration('1h') > duration('59m')", json!(true)),
        ("timestamp('2026-01-02T03:04:05Z').getFullYear()", json!(2026)),
        ("!format.dns1123Label().validate('Bad_Name').hasValue()", json!(false)),
        ("base64.encode(b'hello')", json!("aGVsbG8=")),
    ];
    for (source, want) in cases {
        assert_eq!(eval(source), Ok(want), "{source}");
    }
}

#[test]
fn what_cannot_be_evaluated_says_why() {
    let cases = [
        ("self.missing", "no such key: missing"),
        ("self.replicas.x", "no such overload"),
        ("self.name > 1", "no such overload"),
        ("self.ports[9].port", "index out of bounds: 9"),
        ("1 / 0", "division by zero"),
        ("9223372036854775807 + 1", "integer overflow"),
        ("self.name && true", "no such overload"),
    ];
    for (source, want) in cases {
        assert_eq!(eval(source), Err(want.to_owned()), "{source}");
    }
}

#[test]
fn what_is_no_expression_is_refused_when_it_is_compiled() {
    for source in ["", "self.", "1 +", "self.name ==", "(", "'a'.matches('(')", "[1, 2", "a b"] {
        assert!(Program::compile(source).is_err(), "{source}");
    }
}

#[test]
fn names_that_nobody_declared_are_found() {
    let cases = [
        ("self.a > 1", None),
        ("self.list.all(x, x > y)", Some("undeclared reference to 'y' (in container '')")),
        ("self.list.all(i, x, x > i)", None),
        ("cel.bind(x, 1, x > self.a)", None),
        ("nosuch(self)", Some("undeclared reference to 'nosuch' (in container '')")),
        ("math.abs(self.a) > 1 && sets.contains([1], [1])", None),
        ("type(self.at) == google.protobuf.Timestamp", None),
        ("format.dns1123Label().validate(self.name).hasValue()", None),
        ("object.spec", Some("undeclared reference to 'object' (in container '')")),
    ];
    for (source, want) in cases {
        let program = Program::compile(source).unwrap_or_else(|error| panic!("{source}: {error}"));
        assert_eq!(program.undeclared(&["self", "oldSelf"]).as_deref(), want, "{source}");
    }
    assert!(Program::compile("self == oldSelf").is_ok_and(|program| program.reads("oldSelf")));
}

#[test]
fn hostile_expressions_come_to_an_end() {
    let nested = |depth: usize| format!("{}1{}", "(".repeat(depth), ")".repeat(depth));
    let sum = vec!["1"; 4000].join("+");
    let chain = format!("self{}", ".a".repeat(4000));
    let ternaries = format!("{}1{}", "true ? ".repeat(1000), " : 1".repeat(1000));
    let lists = format!("{}{}", "[".repeat(3000), "]".repeat(3000));
    for source in
        [nested(5000), sum, chain, ternaries, lists, "!".repeat(9000) + "true", "x".repeat(MAX_EXPRESSION + 1)]
    {
        // Refused or answered; in either case without a crash.
        let _ = eval(&source);
    }
    let doubling = format!("['aaaaaaaaaaaaaaaa']{}", ".map(x, x + x)".repeat(60));
    let wide = "[0,1,2,3,4,5,6,7,8,9]";
    let loops = (0..12).fold("true".to_owned(), |body, depth| format!("{wide}.all(x{depth}, {body})"));
    let replacing = format!("'aaaaaaaaaa'{}", ".replace('a', 'aaaaaaaaaa')".repeat(20));
    let expensive = [
        doubling,
        loops,
        replacing,
        "lists.range(9223372036854775807)".to_owned(),
        "lists.range(100000).map(x, lists.range(100000))".to_owned(),
        "lists.range(3000).all(x, lists.range(3000).all(y, x >= 0))".to_owned(),
        "lists.range(2000).distinct().size() > 0".to_owned(),
        "lists.range(100000).map(x, 'aaaaaaaaaaaaaaaaaaaaaaaaa').join(',').matches('(a*)*b')".to_owned(),
    ];
    for source in expensive {
        let error = eval(&source).expect_err(&source);
        assert!(error.contains("cost limit"), "{}: {error}", &source[..40]);
    }
    assert!(eval("'%.999999f'.format([1.0])").is_err());
}

#[test]
fn lists_are_built_without_being_copied_at_each_turn() {
    let mut budget = Budget::default();
    let program =
        Program::compile("lists.range(50000).filter(x, x % 2 == 0).map(x, x + 1).size()").expect("it compiles");
    assert!(program.eval(&Scope::default(), &mut budget).is_ok(), "{budget:?}");
}
