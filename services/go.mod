module sluice/services

go 1.26.0

require (
	sluice/pkg v0.0.0
	sluice/proto v0.0.0
)

require (
	github.com/clipperhouse/uax29/v2 v2.7.0 // indirect
	github.com/inconshreveable/mousetrap v1.1.0 // indirect
	github.com/prometheus/common v0.73.1 // indirect
	github.com/spf13/cobra v1.10.2 // indirect
	github.com/spf13/pflag v1.1.0 // indirect
)

replace (
	sluice/pkg => ../pkg
	sluice/proto => ../proto
)
