// Streamctl is the operator's tool: it shows the streams and what holds them
// up, and mends what can be mended.
package main

import (
	"os"

	"sluice/services/streamctl/app"
)

// version is stamped by the build.
var version = "dev"

func main() {
	os.Exit(app.Main(version))
}
