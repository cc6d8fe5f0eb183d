module coracle.dev/workloads/shipping

go 1.24
