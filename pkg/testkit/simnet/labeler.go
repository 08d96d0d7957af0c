package simnet

import (
	"net/http"

	"sluice/pkg/testkit/repo"
)

func (n *Network) subscribeLabels(w http.ResponseWriter, req *http.Request) {
	cursor, given, err := cursorOf(req)
	if err != nil {
		xrpcError(w, http.StatusBadRequest, "InvalidRequest", "cursor is not a number")
		return
	}
	if !n.enter() {
		return
	}
	defer n.owned.Done()
	s, err := accept(w, req, &n.owned, n.done)
	if err != nil {
		return
	}
	defer s.cut()
	last := n.World.LastLabel()
	switch {
	case !given:
		cursor = last
	case cursor > last:
		_ = s.send(opBinary, repo.ErrorFrame("FutureCursor", "Cursor in the future."))
		s.bye()
		return
	}
	for {
		frames, more := n.World.Labels(cursor)
		for _, f := range frames {
			if !n.sendLabels(s, f.Data) {
				return
			}
			cursor = f.Seq
		}
		if s.flush() != nil {
			return
		}
		select {
		case <-more:
		case <-s.closed:
			return
		case <-n.done:
			return
		}
	}
}

func (n *Network) sendLabels(s *socket, data []byte) bool {
	if s.send(opBinary, data) != nil {
		return false
	}
	n.labelsServed.Add(1)
	if n.Faults.fire(FaultLabelDuplicate, "") && s.send(opBinary, data) != nil {
		return false
	}
	if n.Faults.fire(FaultLabelGarbage, "") && s.send(opBinary, []byte{0xff, 0xa1}) != nil {
		return false
	}
	if n.Faults.fire(FaultLabelErrorFrame, "") {
		_ = s.send(opBinary, repo.ErrorFrame("ConsumerTooSlow", "too slow"))
		s.bye()
		return false
	}
	if n.Faults.fire(FaultLabelDisconnect, "") {
		_ = s.flush()
		return false
	}
	return true
}
