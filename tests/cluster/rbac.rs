//! Who may do what, as users and service accounts meet it through stock kubectl.

use crate::kubectl::with_each;

#[test]
fn roles_decide_who_may_do_what() {
    with_each(&[], |k| {
        k.says("auth whoami", &["coracle-admin", "system:masters"]);
        k.says("auth can-i delete nodes", &["yes"]);
        k.ok("create namespace lab");
        k.ok("create role reader -n lab --verb=get,list,watch --resource=pods,pods/log");
        k.ok("create rolebinding jo -n lab --role=reader --user=jo");
        k.says("auth can-i list pods -n lab --as=jo", &["yes"]);
        k.ok("get pods -n lab --as=jo");
        k.refused("auth can-i delete pods -n lab --as=jo", &["no"]);
        k.refused(
            "get pods -n default --as=jo",
            &["pods is forbidden: User \"jo\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""],
        );
        k.says("auth can-i --list -n lab --as=jo", &["pods/log", "[get list watch]", "selfsubjectaccessreviews"]);
        k.says("get rolebinding jo -n lab -o wide", &["Role/reader", "jo"]);
        k.says("describe role reader -n lab", &["pods/log", "[get list watch]"]);
        // Nobody gives away more than they have.
        k.ok("create rolebinding jo-admin -n lab --clusterrole=admin --user=jo");
        k.says("auth can-i create deployments -n lab --as=jo", &["yes"]);
        k.refused(
            "create role all -n lab --verb=* --resource=nodes --as=jo",
            &["is attempting to grant RBAC permissions not currently held", "nodes"],
        );
        k.ok("create role some -n lab --verb=get --resource=pods --as=jo");
        k.ok("delete rolebinding jo jo-admin -n lab");
        k.refused("get pods -n lab --as=jo", &["forbidden"]);
        k.says("get clusterroles", &["cluster-admin", "system:discovery", "view"]);
        k.eventually_says("get clusterrole view -o yaml", &["aggregationRule", "- pods/log"]);
    });
}

#[test]
fn a_service_account_shows_its_token() {
    with_each(&[], |k| {
        k.ok("create serviceaccount robot");
        k.ok("create clusterrolebinding robot --clusterrole=view --serviceaccount=default:robot");
        let token = k.ok("create token robot");
        let with = |line: &str| {
            let server = k.ok("config view --minify -o jsonpath={.clusters[0].cluster.server}");
            // No client certificate: a kubeconfig of nothing, and the token.
            format!(
                "--kubeconfig=/dev/null --server={server} --insecure-skip-tls-verify --token={} {line}",
                token.trim()
            )
        };
        k.says(&with("auth whoami"), &["system:serviceaccount:default:robot", "system:serviceaccounts"]);
        k.says(&with("get services"), &["kubernetes"]);
        k.refused(&with("get secrets"), &["cannot list resource \"secrets\""]);
        k.refused(&with("get nodes"), &["cannot list resource \"nodes\""]);
        k.ok("delete serviceaccount robot");
        k.refused(&with("get services"), &["Unauthorized"]);
        k.says(
            "get --raw /.well-known/openid-configuration",
            &["https://kubernetes.default.svc.cluster.local", "ES256"],
        );
        k.says("get --raw /openid/v1/jwks", &["\"crv\":\"P-256\""]);
    });
}
