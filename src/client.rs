//! A `kube::Client` from a router, a kubeconfig or node credentials.
