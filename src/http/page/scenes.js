// Drawings to try, 320 by 240, for those without a photo at hand: gradients, because networks expect light and shade.

const scenes = (() => {
  const shade = (c, x, y, r, inner, outer) => {
    const gradient = c.createRadialGradient(x - r * 0.3, y - r * 0.35, r * 0.08, x, y, r);
    gradient.addColorStop(0, inner);
    gradient.addColorStop(1, outer);
    return gradient;
  };
  const fade = (c, from, to, top = 0, bottom = 240) => {
    const gradient = c.createLinearGradient(0, top, 0, bottom);
    gradient.addColorStop(0, from);
    gradient.addColorStop(1, to);
    return gradient;
  };
  const fill = (c, style, x, y, w, h) => { c.fillStyle = style; c.fillRect(x, y, w, h); };
  const disc = (c, style, x, y, rx, ry = rx) => {
    c.fillStyle = style;
    c.beginPath();
    c.ellipse(x, y, rx, ry, 0, 0, 2 * Math.PI);
    c.fill();
  };
  const shape = (c, style, path) => { c.fillStyle = style; c.fill(new Path2D(path)); };
  const stroke = (c, style, width, path) => {
    c.strokeStyle = style;
    c.lineWidth = width;
    c.lineCap = "round";
    c.stroke(new Path2D(path));
  };

  const clock = (c) => {
    fill(c, fade(c, "#d8cfc0", "#b9ad99"), 0, 0, 320, 240);
    disc(c, "rgba(0,0,0,0.25)", 165, 128, 98);
    disc(c, fade(c, "#3a3a3e", "#111114", 20, 220), 160, 120, 98);
    disc(c, shade(c, 160, 120, 86, "#ffffff", "#ece8df"), 160, 120, 86);
    c.fillStyle = "#151515";
    c.font = "bold 19px Georgia, serif";
    c.textAlign = "center";
    c.textBaseline = "middle";
    for (let hour = 1; hour <= 12; hour += 1) {
      const angle = hour * Math.PI / 6;
      c.fillText(String(hour), 160 + 62 * Math.sin(angle), 120 - 62 * Math.cos(angle));
    }
    for (let minute = 0; minute < 60; minute += 1) {
      const angle = minute * Math.PI / 30;
      const [sin, cos] = [Math.sin(angle), Math.cos(angle)];
      stroke(c, "#222", minute % 5 ? 1 : 3, `M${160 + 76 * sin} ${120 - 76 * cos}L${160 + 82 * sin} ${120 - 82 * cos}`);
    }
    stroke(c, "#111", 6, "M160 120L124 92");
    stroke(c, "#111", 4, "M160 120L208 82");
    stroke(c, "#b3202a", 2, "M150 136L190 62");
    disc(c, "#111", 160, 120, 6);
  };

  const lights = (c) => {
    fill(c, fade(c, "#7fa9d2", "#dfe9ef"), 0, 0, 320, 240);
    fill(c, "#33373b", 153, 190, 14, 50);
    c.fillStyle = fade(c, "#2e3236", "#15181a", 10, 200);
    c.beginPath();
    c.roundRect(112, 8, 96, 190, 16);
    c.fill();
    const lamps = [["#ff9a8a", "#d3170d", 42], ["#5a4a1c", "#33290c", 102], ["#17402a", "#0b2216", 162]];
    for (const [inner, outer, y] of lamps) {
      disc(c, "#08090a", 160, y - 3, 29);
      disc(c, shade(c, 160, y, 25, inner, outer), 160, y, 25);
      stroke(c, "#0b0d0e", 7, `M132 ${y - 8}A29 29 0 0 1 188 ${y - 8}`);
    }
  };

  const pumpkin = (c) => {
    fill(c, fade(c, "#0d0b14", "#241a14"), 0, 0, 320, 240);
    disc(c, "rgba(0,0,0,0.6)", 160, 214, 120, 16);
    for (const [x, rx] of [[88, 46], [232, 46], [116, 50], [204, 50], [160, 46]]) {
      disc(c, shade(c, x, 134, 92, "#ffa63d", "#a84a07"), x, 134, rx, 84);
    }
    shape(c, "#5a6b2a", "M150 58C148 38 140 30 156 22L174 28C168 38 170 48 172 58Z");
    const glow = shade(c, 160, 150, 90, "#fffbc4", "#ffb321");
    shape(c, glow, "M96 118L122 84L140 120Z");
    shape(c, glow, "M180 120L198 84L224 118Z");
    shape(c, glow, "M150 142L160 124L170 142Z");
    shape(c, glow, "M84 152L108 166L114 156L130 172L140 162L160 176L180 162L190 172L206 156L212 166L236 152C224 200 96 200 84 152Z");
  };

  const balloon = (c) => {
    fill(c, fade(c, "#3f86cf", "#cfe6f7"), 0, 0, 320, 240);
    disc(c, "rgba(255,255,255,0.7)", 60, 190, 52, 12);
    disc(c, "rgba(255,255,255,0.6)", 270, 60, 46, 10);
    const colours = ["#c9242b", "#f2b41d", "#1f5fb0", "#f2b41d", "#c9242b", "#1f5fb0", "#c9242b"];
    c.save();
    c.clip(new Path2D("M160 10C226 10 252 62 240 108C230 144 190 166 178 188L142 188C130 166 90 144 80 108C68 62 94 10 160 10Z"));
    fill(c, "#1f5fb0", 60, 0, 200, 200);
    colours.forEach((colour, at) => {
      const edge = 84 * Math.cos(at * Math.PI / 7);
      c.fillStyle = colour;
      c.beginPath();
      c.moveTo(160, 6);
      c.bezierCurveTo(160 - edge, 50, 160 - edge, 120, 160 - edge * 0.24, 190);
      c.lineTo(250, 190);
      c.lineTo(250, 6);
      c.fill();
    });
    fill(c, shade(c, 160, 90, 110, "rgba(255,255,255,0.35)", "rgba(0,0,30,0.35)"), 60, 0, 200, 200);
    c.restore();
    stroke(c, "#4c3a28", 1.5, "M144 188L150 210M176 188L170 210");
    fill(c, fade(c, "#a3723c", "#5f3d1b", 208, 230), 147, 208, 26, 20);
  };

  const candle = (c) => {
    fill(c, fade(c, "#0b0a10", "#1c1310"), 0, 0, 320, 240);
    disc(c, shade(c, 175, 110, 150, "rgba(255,170,60,0.55)", "rgba(255,150,40,0)"), 160, 92, 140);
    c.fillStyle = c.createLinearGradient(126, 0, 194, 0);
    c.fillStyle.addColorStop(0, "#a9884f");
    c.fillStyle.addColorStop(0.4, "#fff3cf");
    c.fillStyle.addColorStop(1, "#8f6d3a");
    c.fillRect(126, 122, 68, 118);
    disc(c, "#ffdf96", 160, 122, 34, 8);
    disc(c, "#e0b766", 160, 124, 22, 4);
    stroke(c, "#2a1a10", 3, "M160 122C159 114 162 110 160 102");
    shape(c, fade(c, "#ffb52e", "#fff3b0", 34, 114), "M160 28C176 58 182 78 178 96C175 112 145 112 142 96C138 78 146 58 160 28Z");
    shape(c, fade(c, "#fff8d8", "#ffffff", 60, 110), "M160 60C168 76 170 88 168 98C166 108 154 108 152 98C150 88 154 74 160 60Z");
  };

  const digits = (c) => {
    fill(c, fade(c, "#6f5a48", "#3b2d22"), 0, 0, 320, 240);
    disc(c, "rgba(0,0,0,0.5)", 160, 206, 136, 12);
    c.fillStyle = fade(c, "#3d4046", "#131418", 50, 205);
    c.beginPath();
    c.roundRect(26, 52, 268, 152, 18);
    c.fill();
    c.fillStyle = "#0a0303";
    c.beginPath();
    c.roundRect(42, 70, 236, 112, 8);
    c.fill();
    const segments = ["M6 0L38 0", "M42 4L42 34", "M42 42L42 72", "M6 76L38 76", "M2 42L2 72", "M2 4L2 34", "M6 38L38 38"];
    const lit = { 0: [0, 1, 2, 3, 4, 5], 1: [1, 2], 2: [0, 1, 6, 4, 3], 8: [0, 1, 2, 3, 4, 5, 6] };
    [[1, 50], [0, 102], [2, 170], [8, 222]].forEach(([digit, x]) => {
      c.save();
      c.translate(x, 88);
      c.shadowColor = "#ff2a1a";
      c.shadowBlur = 10;
      for (const segment of lit[digit]) stroke(c, "#ff4633", 7, segments[segment]);
      c.restore();
    });
    disc(c, "#ff4633", 158, 110, 4);
    disc(c, "#ff4633", 158, 142, 4);
  };

  return [["Clock", clock], ["Traffic light", lights], ["Pumpkin", pumpkin], ["Balloon", balloon], ["Candle", candle], ["Digital clock", digits]];
})();
