"use strict";
// Rates and percentiles from running totals: the server keeps no window, so the page takes the differences.
const WINDOW_S = 12, HISTORY = 120;

class Traffic {
  constructor() { this.looks = []; this.rates = []; }

  add(atS, totals) {
    const last = this.looks[this.looks.length - 1];
    if (last && (totals.requests < last.totals.requests || atS <= last.atS)) { this.looks = []; } // the server began anew
    this.looks.push({ atS, totals });
    while (this.looks.length > 2 && atS - this.looks[0].atS > WINDOW_S) this.looks.shift();
    if (this.looks.length > 1) this.rates.push(this.rate);
    if (this.rates.length > HISTORY) this.rates.shift();
  }

  get span() { return [this.looks[0], this.looks[this.looks.length - 1]]; }

  per(key) {
    if (this.looks.length < 2) return null;
    const [first, last] = this.span;
    return (last.totals[key] - first.totals[key]) / (last.atS - first.atS);
  }

  get rate() { return this.per("requests"); }
  get errorRate() { return this.per("errors"); }

  percentile(share) {
    if (this.looks.length < 2) return null;
    const [first, last] = this.span;
    const before = new Map(first.totals.latency.map(([bound, count]) => [String(bound), count]));
    const counts = last.totals.latency.map(([bound, count]) => [bound, count - (before.get(String(bound)) || 0)]);
    const total = counts.length ? counts[counts.length - 1][1] : 0;
    if (!total) return null;
    let below = 0, lowest = 0;
    for (const [bound, count] of counts) {
      if (count >= share * total) {
        if (bound === null) return lowest; // above the largest bound
        return lowest + (bound - lowest) * ((share * total - below) / Math.max(1, count - below));
      }
      below = count; lowest = bound;
    }
    return lowest;
  }
}
