module sluice/services

go 1.26

require (
	sluice/pkg v0.0.0
	sluice/proto v0.0.0
)

replace (
	sluice/pkg => ../pkg
	sluice/proto => ../proto
)
