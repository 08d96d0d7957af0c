module sluice/services

go 1.26.0

require (
	sluice/pkg v0.0.0
	sluice/proto v0.0.0
)

require github.com/clipperhouse/uax29/v2 v2.7.0 // indirect

replace (
	sluice/pkg => ../pkg
	sluice/proto => ../proto
)
