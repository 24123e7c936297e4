package main

import (
	"math/rand/v2"
	"testing"
)

func TestBucketsHoldTheirValues(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	for range 100_000 {
		value := random.Int64N(1 << (1 + random.IntN(42)))
		bucket := bucketOf(value)
		edge := upperEdge(bucket)
		if value > edge || (bucket > 0 && value <= upperEdge(bucket-1)) {
			t.Fatalf("%d is in bucket %d, which ends at %d", value, bucket, edge)
		}
		if edge-value > value/64 {
			t.Fatalf("%d would be given as %d", value, edge)
		}
	}
}

func TestQuantiles(t *testing.T) {
	var h histogram
	for value := range int64(100) {
		h.add((value + 1) * 1000)
	}
	for q, want := range map[float64]float64{0.5: 51, 0.99: 100} {
		if got := h.quantile(q); got < want || got > want*1.02 {
			t.Errorf("quantile %g is %g µs, not about %g", q, got, want)
		}
	}
}
